-- How often a tenant or a key was changed, with its limits. Who changes what they have read says which revision that
-- was, and finds out where somebody else was quicker. The code before this leaves the number as it is.
SET LOCAL lock_timeout = '2s';

ALTER TABLE gateway.tenants ADD COLUMN revision bigint NOT NULL DEFAULT 1;
ALTER TABLE gateway.keys ADD COLUMN revision bigint NOT NULL DEFAULT 1;
