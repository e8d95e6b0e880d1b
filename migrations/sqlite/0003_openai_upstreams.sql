-- Upstreams that speak OpenAI's dialect. SQLite cannot change a CHECK: the table is made anew.
CREATE TABLE upstreams_new (
    name       TEXT PRIMARY KEY,
    url        TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('ollama', 'openai')),
    created_at INTEGER NOT NULL,
    slots      INTEGER CHECK (slots > 0)
) STRICT, WITHOUT ROWID;
INSERT INTO upstreams_new (name, url, kind, created_at, slots)
    SELECT name, url, kind, created_at, slots FROM upstreams;
DROP TABLE upstreams;
ALTER TABLE upstreams_new RENAME TO upstreams;

CREATE TRIGGER upstreams_insert AFTER INSERT ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;
CREATE TRIGGER upstreams_update AFTER UPDATE ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;
CREATE TRIGGER upstreams_delete AFTER DELETE ON upstreams BEGIN
    INSERT INTO changes (kind) VALUES ('upstreams');
END;
