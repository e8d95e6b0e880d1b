-- The code before this neither reads nor writes any of it.
SET LOCAL lock_timeout = '2s';

-- Whether a connection to an upstream serves further requests after its first.
ALTER TABLE gateway.upstreams ADD COLUMN keep_alive boolean NOT NULL DEFAULT true;

-- The length in bytes of a body of which only the beginning is kept; NULL: all of it is, or a row of the code
-- before this.
ALTER TABLE gateway.prompt_logs ADD COLUMN cut_from bigint CHECK (cut_from > 0);
