-- The code before this neither reads nor writes any of it.

-- Whether a connection to an upstream serves further requests after its first.
ALTER TABLE upstreams ADD COLUMN keep_alive INTEGER NOT NULL DEFAULT 1 CHECK (keep_alive IN (0, 1));

-- The length in bytes of a body of which only the beginning is kept; NULL: all of it is, or a row of the code
-- before this.
ALTER TABLE prompt_logs ADD COLUMN cut_from INTEGER CHECK (cut_from > 0);
