-- What admission decides by. The code before this neither reads nor writes any of it.

-- Requests at once on an upstream; NULL: as many as come.
ALTER TABLE upstreams ADD COLUMN slots INTEGER CHECK (slots > 0);

-- How a tenant is served. `weight`: its share where requests wait for an upstream. `reserve`: how much
-- of a budget a request sets aside. `exhausted`: what becomes of a stream that needs more than is left.
ALTER TABLE tenants ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);
ALTER TABLE tenants ADD COLUMN reserve TEXT NOT NULL DEFAULT 'strict'
    CHECK (reserve IN ('strict', 'learned'));
ALTER TABLE tenants ADD COLUMN exhausted TEXT NOT NULL DEFAULT 'stop'
    CHECK (exhausted IN ('stop', 'finish'));
-- Seconds; NULL: as long as everybody's.
ALTER TABLE tenants ADD COLUMN audit_retention INTEGER CHECK (audit_retention > 0);

-- `observed`: which limits only report, as `rpm,tpm,concurrency,budget`. `budget_forgiven`: so much of
-- what the ledger held at `budget_reset_at` does not count. `budget_read_at`: what was counted before
-- is not to be trusted; the ledger is read anew.
ALTER TABLE tenant_limits ADD COLUMN observed TEXT NOT NULL DEFAULT '';
ALTER TABLE tenant_limits ADD COLUMN budget_forgiven INTEGER NOT NULL DEFAULT 0
    CHECK (budget_forgiven >= 0);
ALTER TABLE tenant_limits ADD COLUMN budget_reset_at INTEGER;
ALTER TABLE tenant_limits ADD COLUMN budget_read_at INTEGER;
ALTER TABLE key_limits ADD COLUMN observed TEXT NOT NULL DEFAULT '';
ALTER TABLE key_limits ADD COLUMN budget_forgiven INTEGER NOT NULL DEFAULT 0
    CHECK (budget_forgiven >= 0);
ALTER TABLE key_limits ADD COLUMN budget_reset_at INTEGER;
ALTER TABLE key_limits ADD COLUMN budget_read_at INTEGER;

-- Names that stand for others. `targets`: a JSON array, tried in order. A nil tenant: for everybody.
-- It takes the place of `models.alias_of`, which nobody reads.
CREATE TABLE model_aliases (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    name      TEXT NOT NULL,
    targets   TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER model_aliases_insert AFTER INSERT ON model_aliases BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
CREATE TRIGGER model_aliases_update AFTER UPDATE ON model_aliases BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
CREATE TRIGGER model_aliases_delete AFTER DELETE ON model_aliases BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
-- No foreign key, since nil is no tenant: they go with it all the same.
CREATE TRIGGER tenants_delete_aliases AFTER DELETE ON tenants BEGIN
    DELETE FROM model_aliases WHERE tenant_id = OLD.id;
END;
