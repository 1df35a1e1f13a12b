-- Work on dead letters, and what tells the worker what became of an entry.

-- An edit keeps the original: `payload` never changes, `edited` is what a replay sends.
ALTER TABLE dead_letters ADD COLUMN edited BLOB;
-- How often it was replayed; a replay is named by (dead letter, number).
ALTER TABLE dead_letters ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
CREATE INDEX idx_dead_fingerprint ON dead_letters(fingerprint, id);
CREATE INDEX idx_dead_replay ON dead_letters(replay_of) WHERE replay_of IS NOT NULL;

-- The one entry that a replay took effect through; every other entry of the same replay is a copy.
CREATE TABLE replays (
    dead_letter_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    handled_at TEXT NOT NULL,
    PRIMARY KEY (dead_letter_id, number)
) STRICT, WITHOUT ROWID;

-- Entries that were tried alone, counted before each try: an event that kills its worker is charged too.
CREATE TABLE attempts (
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    tries INTEGER NOT NULL,
    last_at TEXT NOT NULL,
    PRIMARY KEY (stream, entry_id)
) STRICT, WITHOUT ROWID;

-- Whether an entry whose payload is gone had its effect before it was acknowledged.
CREATE INDEX idx_fv_entry ON feature_vectors(entry_id) WHERE entry_id IS NOT NULL;
CREATE INDEX idx_outcome_entry ON trade_outcomes(entry_id) WHERE entry_id IS NOT NULL;
