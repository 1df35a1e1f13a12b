-- Who acted: in the ledger, of a training, and of a replay that somebody else may have to enter into the audit.
ALTER TABLE promotions ADD COLUMN actor TEXT;
ALTER TABLE training_runs ADD COLUMN requested_by TEXT;

-- A replay that was asked for, before it is sent; its entry once that is known to whoever entered it into the audit.
CREATE TABLE replay_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dead_letter_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    actor TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    entry_id TEXT
) STRICT;

CREATE INDEX idx_replay_requests_letter ON replay_requests(dead_letter_id);
