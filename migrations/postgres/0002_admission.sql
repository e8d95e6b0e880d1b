-- What admission decides by. The code before this neither reads nor writes any of it.
SET LOCAL lock_timeout = '2s';

-- Requests at once on an upstream; NULL: as many as come.
ALTER TABLE gateway.upstreams ADD COLUMN slots bigint CHECK (slots > 0);

-- How a tenant is served. `weight`: its share where requests wait for an upstream. `reserve`: how much
-- of a budget a request sets aside. `exhausted`: what becomes of a stream that needs more than is left.
-- `audit_retention`: seconds; NULL: as long as everybody's.
ALTER TABLE gateway.tenants
    ADD COLUMN weight bigint NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    ADD COLUMN reserve text NOT NULL DEFAULT 'strict' CHECK (reserve IN ('strict', 'learned')),
    ADD COLUMN exhausted text NOT NULL DEFAULT 'stop' CHECK (exhausted IN ('stop', 'finish')),
    ADD COLUMN audit_retention bigint CHECK (audit_retention > 0);

-- `observed`: which limits only report, as `rpm,tpm,concurrency,budget`. `budget_forgiven`: so much of
-- what the ledger held at `budget_reset_at` does not count. `budget_read_at`: what was counted before
-- is not to be trusted; the ledger is read anew.
ALTER TABLE gateway.tenant_limits
    ADD COLUMN observed text NOT NULL DEFAULT '',
    ADD COLUMN budget_forgiven bigint NOT NULL DEFAULT 0 CHECK (budget_forgiven >= 0),
    ADD COLUMN budget_reset_at timestamptz,
    ADD COLUMN budget_read_at timestamptz;
ALTER TABLE gateway.key_limits
    ADD COLUMN observed text NOT NULL DEFAULT '',
    ADD COLUMN budget_forgiven bigint NOT NULL DEFAULT 0 CHECK (budget_forgiven >= 0),
    ADD COLUMN budget_reset_at timestamptz,
    ADD COLUMN budget_read_at timestamptz;

-- Names that stand for others. `targets`: tried in order. A nil tenant: for everybody. It takes the
-- place of `models.alias_of`, which nobody reads.
CREATE TABLE gateway.model_aliases (
    tenant_id uuid NOT NULL,
    name      text COLLATE "C" NOT NULL,
    targets   text[] NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON gateway.model_aliases
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.tell_table('models');

-- No foreign key, since nil is no tenant: they go with it all the same.
CREATE FUNCTION gateway.forget_aliases() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM gateway.model_aliases WHERE tenant_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_aliases AFTER DELETE ON gateway.tenants
    FOR EACH ROW EXECUTE FUNCTION gateway.forget_aliases();
