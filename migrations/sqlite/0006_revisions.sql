-- How often a tenant or a key was changed, with its limits. Who changes what they have read says which revision that
-- was, and finds out where somebody else was quicker. The code before this leaves the number as it is.
ALTER TABLE tenants ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE keys ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
