CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    received_at TEXT NOT NULL,
    packed INTEGER NOT NULL CHECK (packed IN (0, 1)),
    payload BLOB NOT NULL,
    UNIQUE (stream, entry_id)
) STRICT;

CREATE INDEX idx_events_received ON events(received_at);

CREATE TABLE ml_schema_migrations (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
);
