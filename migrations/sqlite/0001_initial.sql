-- The first schema. Ids are the 16 bytes of a UUID; times are microseconds since 1970 in UTC; lists
-- of models are JSON arrays.

-- Who pays.
CREATE TABLE tenants (
    id               BLOB PRIMARY KEY CHECK (length(id) = 16),
    name             TEXT NOT NULL UNIQUE,
    suspended        INTEGER NOT NULL DEFAULT 0 CHECK (suspended IN (0, 1)),
    -- 1: every model; 0: those in `models`.
    allow_all_models INTEGER NOT NULL DEFAULT 0 CHECK (allow_all_models IN (0, 1)),
    models           TEXT NOT NULL DEFAULT '[]',
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant_limits (
    tenant_id     BLOB PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    rpm           INTEGER CHECK (rpm >= 0),
    tpm           INTEGER CHECK (tpm >= 0),
    concurrency   INTEGER CHECK (concurrency >= 0),
    budget_tokens INTEGER CHECK (budget_tokens >= 0),
    budget_period TEXT CHECK (budget_period IN ('day', 'month', 'total')),
    CHECK ((budget_tokens IS NULL) = (budget_period IS NULL))
) STRICT, WITHOUT ROWID;

-- API keys: hashes, never secrets.
CREATE TABLE keys (
    id               BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id        BLOB NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name             TEXT NOT NULL,
    prefix           TEXT NOT NULL UNIQUE,
    hash             TEXT NOT NULL,
    -- A row in `revocations` sets this; a key is revoked where either says so.
    status           TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    -- NULL: the key has no word of its own, its tenant's rule holds.
    allow_all_models INTEGER CHECK (allow_all_models IN (0, 1)),
    models           TEXT NOT NULL DEFAULT '[]',
    log_prompts      INTEGER NOT NULL DEFAULT 0 CHECK (log_prompts IN (0, 1)),
    expires_at       INTEGER,
    created_at       INTEGER NOT NULL,
    -- No foreign key: keys go only together with their tenant.
    rotated_to       BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_tenant ON keys (tenant_id, created_at);

CREATE TABLE key_limits (
    key_id        BLOB PRIMARY KEY REFERENCES keys (id) ON DELETE CASCADE,
    rpm           INTEGER CHECK (rpm >= 0),
    tpm           INTEGER CHECK (tpm >= 0),
    concurrency   INTEGER CHECK (concurrency >= 0),
    budget_tokens INTEGER CHECK (budget_tokens >= 0),
    budget_period TEXT CHECK (budget_period IN ('day', 'month', 'total')),
    CHECK ((budget_tokens IS NULL) = (budget_period IS NULL))
) STRICT, WITHOUT ROWID;

-- The withdrawal of keys. `key_id` is all that must be known.
CREATE TABLE revocations (
    key_id     BLOB PRIMARY KEY REFERENCES keys (id) ON DELETE CASCADE,
    revoked_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    reason     TEXT NOT NULL DEFAULT '',
    -- Whether streams in flight are to be cut as well.
    cut        INTEGER NOT NULL DEFAULT 0 CHECK (cut IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX revocations_revoked_at ON revocations (revoked_at);

CREATE TABLE upstreams (
    name       TEXT PRIMARY KEY,
    url        TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('ollama')),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Aliases and prices; prices in nanodollars per million tokens.
CREATE TABLE models (
    name             TEXT PRIMARY KEY,
    alias_of         TEXT,
    prompt_price     INTEGER CHECK (prompt_price >= 0),
    completion_price INTEGER CHECK (completion_price >= 0)
) STRICT, WITHOUT ROWID;

-- The repeated words of the audit, once each: models, upstreams, routes, codes. Rows are never
-- changed or deleted, so that an id that was read once stays true. 0 is left for "none".
CREATE TABLE names (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- One narrow row a request. No foreign keys: what happened outlasts who did it.
CREATE TABLE audit_events (
    request_id        BLOB PRIMARY KEY CHECK (length(request_id) = 16),
    at                INTEGER NOT NULL,
    tenant_id         BLOB,
    key_id            BLOB,
    model_id          INTEGER,
    upstream_id       INTEGER,
    route_id          INTEGER NOT NULL,
    code_id           INTEGER,
    status            INTEGER NOT NULL,
    outcome           TEXT NOT NULL CHECK (outcome IN (
        'completed', 'client_left', 'upstream_failed', 'timed_out', 'refused', 'stopped'
    )),
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    estimated         INTEGER NOT NULL CHECK (estimated IN (0, 1)),
    first_byte_us     INTEGER,
    total_us          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_events_at ON audit_events (at);
CREATE INDEX audit_events_tenant ON audit_events (tenant_id, at);
CREATE INDEX audit_events_key ON audit_events (key_id, at);

-- Sums of usage. `day` counts from 1970-01-01. A nil key and model 0 stand for "none", so that they
-- can be in the primary key.
CREATE TABLE usage_ledger (
    tenant_id         BLOB NOT NULL,
    key_id            BLOB NOT NULL,
    model_id          INTEGER NOT NULL,
    day               INTEGER NOT NULL,
    requests          INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    estimated         INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key_id, model_id, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_ledger_key ON usage_ledger (key_id, day);

-- Prompts of those keys that ask for it.
CREATE TABLE prompt_logs (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    request_id BLOB NOT NULL,
    key_id     BLOB NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    encrypted  INTEGER NOT NULL CHECK (encrypted IN (0, 1)),
    body       BLOB NOT NULL
) STRICT;
CREATE INDEX prompt_logs_expires_at ON prompt_logs (expires_at);
CREATE INDEX prompt_logs_key ON prompt_logs (key_id, created_at);

-- === Word of changes ===
-- What other processes poll. AUTOINCREMENT: a number must not come again, or a reader would pass
-- over the row that has it.
CREATE TABLE changes (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('tenant', 'key', 'revoked', 'upstreams', 'models')),
    id   BLOB,
    cut  INTEGER NOT NULL DEFAULT 0 CHECK (cut IN (0, 1))
) STRICT;

-- A reader that is further behind than this finds a gap and takes it that everything has changed.
CREATE TRIGGER changes_trim AFTER INSERT ON changes BEGIN
    DELETE FROM changes WHERE seq <= NEW.seq - 4096;
END;

CREATE TRIGGER revocations_insert AFTER INSERT ON revocations BEGIN
    UPDATE keys SET status = 'revoked' WHERE id = NEW.key_id AND status = 'active';
    INSERT INTO changes (kind, id, cut) VALUES ('revoked', NEW.key_id, NEW.cut);
END;
CREATE TRIGGER revocations_update AFTER UPDATE ON revocations BEGIN
    INSERT INTO changes (kind, id, cut) VALUES ('revoked', NEW.key_id, NEW.cut);
END;

CREATE TRIGGER tenants_insert AFTER INSERT ON tenants BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', NEW.id);
END;
CREATE TRIGGER tenants_update AFTER UPDATE ON tenants BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', NEW.id);
END;
CREATE TRIGGER tenants_delete AFTER DELETE ON tenants BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', OLD.id);
END;

CREATE TRIGGER tenant_limits_insert AFTER INSERT ON tenant_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', NEW.tenant_id);
END;
CREATE TRIGGER tenant_limits_update AFTER UPDATE ON tenant_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', NEW.tenant_id);
END;
CREATE TRIGGER tenant_limits_delete AFTER DELETE ON tenant_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('tenant', OLD.tenant_id);
END;

-- Not for `hash`: a rehash after a login changes nothing that anybody else knows.
CREATE TRIGGER keys_insert AFTER INSERT ON keys BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', NEW.id);
END;
CREATE TRIGGER keys_update AFTER UPDATE OF
    tenant_id, name, prefix, status, allow_all_models, models, log_prompts, expires_at, rotated_to
    ON keys BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', NEW.id);
END;
CREATE TRIGGER keys_delete AFTER DELETE ON keys BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', OLD.id);
END;

CREATE TRIGGER key_limits_insert AFTER INSERT ON key_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', NEW.key_id);
END;
CREATE TRIGGER key_limits_update AFTER UPDATE ON key_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', NEW.key_id);
END;
CREATE TRIGGER key_limits_delete AFTER DELETE ON key_limits BEGIN
    INSERT INTO changes (kind, id) VALUES ('key', OLD.key_id);
END;

CREATE TRIGGER upstreams_insert AFTER INSERT ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;
CREATE TRIGGER upstreams_update AFTER UPDATE ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;
CREATE TRIGGER upstreams_delete AFTER DELETE ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;

CREATE TRIGGER models_insert AFTER INSERT ON models BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
CREATE TRIGGER models_update AFTER UPDATE ON models BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
CREATE TRIGGER models_delete AFTER DELETE ON models BEGIN
    INSERT INTO changes (kind) VALUES ('models');
END;
