-- How many requests a row stands for: requests of one caller that used no tokens are folded into one row beyond a
-- rate. The code before this neither reads nor writes it: each of its rows is one request.
SET LOCAL lock_timeout = '2s';

ALTER TABLE gateway.audit_events ADD COLUMN requests integer NOT NULL DEFAULT 1;
