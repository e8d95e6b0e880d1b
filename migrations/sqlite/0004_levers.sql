-- What a tenant may ask of model servers at the cost of others. The code before this neither reads nor
-- writes any of it; the defaults are those of a new tenant.

-- `keep_alive_max`: seconds; NULL: as long as it likes. `num_ctx_max`: 0 forbids the option; NULL: as large
-- as it likes. `load_options`: whether the other options may be chosen that a model is loaded with.
ALTER TABLE tenants ADD COLUMN keep_alive_max INTEGER DEFAULT 1800 CHECK (keep_alive_max > 0);
ALTER TABLE tenants ADD COLUMN may_unload INTEGER NOT NULL DEFAULT 0 CHECK (may_unload IN (0, 1));
ALTER TABLE tenants ADD COLUMN num_ctx_max INTEGER CHECK (num_ctx_max >= 0);
ALTER TABLE tenants ADD COLUMN load_options TEXT NOT NULL DEFAULT 'safe'
    CHECK (load_options IN ('all', 'safe'));
ALTER TABLE tenants ADD COLUMN trusted_show INTEGER NOT NULL DEFAULT 0 CHECK (trusted_show IN (0, 1));
