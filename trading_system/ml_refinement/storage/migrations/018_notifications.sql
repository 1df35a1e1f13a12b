-- What somebody is to be told, written in the transaction of what it tells of; whoever sends notes here what came of it.
CREATE TABLE notifications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL UNIQUE DEFAULT ('msg_' || lower(hex(randomblob(16)))),  -- by it receivers tell repetitions
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    details TEXT NOT NULL CHECK (json_valid(details)),  -- JSON object
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'given_up', 'unwanted')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try TEXT NOT NULL,            -- not sent before
    settled_at TEXT,
    error TEXT                       -- what the last try that failed came to
) STRICT;
CREATE INDEX idx_notifications_waiting ON notifications(id) WHERE state = 'waiting';
CREATE INDEX idx_notifications_kind ON notifications(kind, at);

-- How often each came, ever: the rows themselves are bounded.
CREATE TABLE notification_counts (
    result TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO notification_counts (result, number) VALUES ('sent', 0), ('failed', 0), ('given_up', 0), ('dropped', 0);
