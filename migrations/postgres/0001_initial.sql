-- The first schema. Everything lives in schema `gateway`; names are qualified, so that nothing here
-- depends on a search_path.

CREATE TYPE gateway.key_status AS ENUM ('active', 'revoked');
CREATE TYPE gateway.limit_period AS ENUM ('day', 'month', 'total');
CREATE TYPE gateway.upstream_kind AS ENUM ('ollama');
CREATE TYPE gateway.request_outcome AS ENUM (
    'completed', 'client_left', 'upstream_failed', 'timed_out', 'refused', 'stopped'
);

-- Who pays. Names sort by bytes, as they do on SQLite.
CREATE TABLE gateway.tenants (
    id               uuid PRIMARY KEY,
    name             text COLLATE "C" NOT NULL UNIQUE,
    suspended        boolean NOT NULL DEFAULT false,
    -- true: every model; false: those in `models`.
    allow_all_models boolean NOT NULL DEFAULT false,
    models           text[] NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE gateway.tenant_limits (
    tenant_id     uuid PRIMARY KEY REFERENCES gateway.tenants (id) ON DELETE CASCADE,
    rpm           bigint CHECK (rpm >= 0),
    tpm           bigint CHECK (tpm >= 0),
    concurrency   bigint CHECK (concurrency >= 0),
    budget_tokens bigint CHECK (budget_tokens >= 0),
    budget_period gateway.limit_period,
    CHECK ((budget_tokens IS NULL) = (budget_period IS NULL))
);

-- API keys: hashes, never secrets.
CREATE TABLE gateway.keys (
    id               uuid PRIMARY KEY,
    tenant_id        uuid NOT NULL REFERENCES gateway.tenants (id) ON DELETE CASCADE,
    name             text NOT NULL,
    prefix           text COLLATE "C" NOT NULL UNIQUE,
    hash             text NOT NULL,
    -- A row in `revocations` sets this; a key is revoked where either says so.
    status           gateway.key_status NOT NULL DEFAULT 'active',
    -- NULL: the key has no word of its own, its tenant's rule holds.
    allow_all_models boolean,
    models           text[] NOT NULL DEFAULT '{}',
    log_prompts      boolean NOT NULL DEFAULT false,
    expires_at       timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- No foreign key: keys go only together with their tenant.
    rotated_to       uuid
);
CREATE INDEX keys_tenant ON gateway.keys (tenant_id, created_at);

CREATE TABLE gateway.key_limits (
    key_id        uuid PRIMARY KEY REFERENCES gateway.keys (id) ON DELETE CASCADE,
    rpm           bigint CHECK (rpm >= 0),
    tpm           bigint CHECK (tpm >= 0),
    concurrency   bigint CHECK (concurrency >= 0),
    budget_tokens bigint CHECK (budget_tokens >= 0),
    budget_period gateway.limit_period,
    CHECK ((budget_tokens IS NULL) = (budget_period IS NULL))
);

-- The withdrawal of keys. Any program may write here: `key_id` is all it must know.
CREATE TABLE gateway.revocations (
    key_id     uuid PRIMARY KEY REFERENCES gateway.keys (id) ON DELETE CASCADE,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    reason     text NOT NULL DEFAULT '',
    -- Whether streams in flight are to be cut as well.
    cut        boolean NOT NULL DEFAULT false
);
CREATE INDEX revocations_revoked_at ON gateway.revocations (revoked_at);

CREATE TABLE gateway.upstreams (
    name       text COLLATE "C" PRIMARY KEY,
    url        text NOT NULL,
    kind       gateway.upstream_kind NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Aliases and prices; prices in nanodollars per million tokens.
CREATE TABLE gateway.models (
    name             text COLLATE "C" PRIMARY KEY,
    alias_of         text COLLATE "C",
    prompt_price     bigint CHECK (prompt_price >= 0),
    completion_price bigint CHECK (completion_price >= 0)
);

-- The repeated words of the audit, once each: models, upstreams, routes, codes. Rows are never
-- changed or deleted, so that an id that was read once stays true. 0 is left for "none".
CREATE TABLE gateway.names (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- One narrow row a request, by month. No foreign keys: what happened outlasts who did it. Columns
-- stand from wide to narrow, so that none is padded.
CREATE TABLE gateway.audit_events (
    at                timestamptz NOT NULL,
    total_us          bigint NOT NULL,
    first_byte_us     bigint,
    request_id        uuid NOT NULL,
    tenant_id         uuid,
    key_id            uuid,
    prompt_tokens     integer NOT NULL,
    completion_tokens integer NOT NULL,
    outcome           gateway.request_outcome NOT NULL,
    route_id          integer NOT NULL,
    model_id          integer,
    upstream_id       integer,
    code_id           integer,
    status            smallint NOT NULL,
    estimated         boolean NOT NULL,
    PRIMARY KEY (at, request_id)
) PARTITION BY RANGE (at);
CREATE INDEX audit_events_tenant ON gateway.audit_events (tenant_id, at);
CREATE INDEX audit_events_key ON gateway.audit_events (key_id, at);

-- Where a month has no partition yet, its rows go here, so that an insert never fails.
CREATE TABLE gateway.audit_events_default PARTITION OF gateway.audit_events DEFAULT;

-- Sums of usage. A nil key and model 0 stand for "none", so that they can be in the primary key.
-- The free space lets a sum grow in place.
CREATE TABLE gateway.usage_ledger (
    tenant_id         uuid NOT NULL,
    key_id            uuid NOT NULL,
    model_id          integer NOT NULL,
    day               date NOT NULL,
    requests          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    estimated         bigint NOT NULL,
    PRIMARY KEY (tenant_id, key_id, model_id, day)
) WITH (fillfactor = 80);
CREATE INDEX usage_ledger_key ON gateway.usage_ledger (key_id, day);

-- Prompts of those keys that ask for it.
CREATE TABLE gateway.prompt_logs (
    id         uuid PRIMARY KEY,
    request_id uuid NOT NULL,
    key_id     uuid NOT NULL REFERENCES gateway.keys (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    encrypted  boolean NOT NULL,
    body       bytea NOT NULL
);
CREATE INDEX prompt_logs_expires_at ON gateway.prompt_logs (expires_at);
CREATE INDEX prompt_logs_key ON gateway.prompt_logs (key_id, created_at);

-- === Word of changes ===
-- On channel gateway_changes: `tenant:<id>`, `key:<id>`, `revoked:<id>`, `revoked:<id>:cut`,
-- `upstreams`, `models`. The functions set their own search_path: whoever writes may have any.

-- Arguments: the kind, and the column that holds the id.
CREATE FUNCTION gateway.tell_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := to_jsonb(OLD);
    ELSE
        changed := to_jsonb(NEW);
    END IF;
    PERFORM pg_notify('gateway_changes', TG_ARGV[0] || ':' || (changed ->> TG_ARGV[1]));
    RETURN NULL;
END
$$;

-- Argument: the kind.
CREATE FUNCTION gateway.tell_table() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('gateway_changes', TG_ARGV[0]);
    RETURN NULL;
END
$$;

-- SECURITY DEFINER: who may insert a revocation need not be allowed to write keys.
CREATE FUNCTION gateway.tell_revocation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE gateway.keys SET status = 'revoked' WHERE id = NEW.key_id AND status = 'active';
    PERFORM pg_notify(
        'gateway_changes',
        'revoked:' || NEW.key_id::text || CASE WHEN NEW.cut THEN ':cut' ELSE '' END
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON gateway.tenants
    FOR EACH ROW EXECUTE FUNCTION gateway.tell_row('tenant', 'id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON gateway.tenant_limits
    FOR EACH ROW EXECUTE FUNCTION gateway.tell_row('tenant', 'tenant_id');
-- Not for `hash`: a rehash after a login changes nothing that anybody else knows.
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF
    tenant_id, name, prefix, status, allow_all_models, models, log_prompts, expires_at, rotated_to
    ON gateway.keys
    FOR EACH ROW EXECUTE FUNCTION gateway.tell_row('key', 'id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON gateway.key_limits
    FOR EACH ROW EXECUTE FUNCTION gateway.tell_row('key', 'key_id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON gateway.revocations
    FOR EACH ROW EXECUTE FUNCTION gateway.tell_revocation();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON gateway.upstreams
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.tell_table('upstreams');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON gateway.models
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.tell_table('models');
