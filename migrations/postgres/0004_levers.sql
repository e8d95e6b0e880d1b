-- What a tenant may ask of model servers at the cost of others. The code before this neither reads nor
-- writes any of it; the defaults are those of a new tenant.
SET LOCAL lock_timeout = '2s';

-- `keep_alive_max`: seconds; NULL: as long as it likes. `num_ctx_max`: 0 forbids the option; NULL: as large
-- as it likes. `load_options`: whether the other options may be chosen that a model is loaded with.
ALTER TABLE gateway.tenants
    ADD COLUMN keep_alive_max bigint DEFAULT 1800 CHECK (keep_alive_max > 0),
    ADD COLUMN may_unload boolean NOT NULL DEFAULT false,
    ADD COLUMN num_ctx_max bigint CHECK (num_ctx_max >= 0),
    ADD COLUMN load_options text NOT NULL DEFAULT 'safe' CHECK (load_options IN ('all', 'safe')),
    ADD COLUMN trusted_show boolean NOT NULL DEFAULT false;
