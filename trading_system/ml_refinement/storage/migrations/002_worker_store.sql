-- What the worker needs beside the specification's tables.

-- A store filled before this migration may hold naive or offset times, and the same prediction twice.
UPDATE feature_vectors SET timestamp = strftime('%Y-%m-%dT%H:%M:%f', timestamp) || '000Z' WHERE length(timestamp) <> 27;
DELETE FROM prediction_log
    WHERE id NOT IN (SELECT min(id) FROM prediction_log GROUP BY signal_id, model_id);

-- The worker's vectors carry their values a second time, as little-endian doubles in the order of a list of names:
-- a matrix of 100,000 is read several times faster than from JSON. The JSON is what counts.
CREATE TABLE feature_lists (
    id INTEGER PRIMARY KEY,
    names TEXT NOT NULL UNIQUE       -- JSON array
) STRICT;
ALTER TABLE feature_vectors ADD COLUMN list_id INTEGER;
ALTER TABLE feature_vectors ADD COLUMN packed BLOB;
CREATE TRIGGER features_edited AFTER UPDATE OF features ON feature_vectors
    WHEN NEW.packed IS NOT NULL AND NEW.packed IS OLD.packed BEGIN
    UPDATE feature_vectors SET packed = NULL, list_id = NULL WHERE id = NEW.id;
END;

-- Vectors: what was received, whether every extractor succeeded, and when the label became known.
ALTER TABLE feature_vectors ADD COLUMN complete INTEGER NOT NULL DEFAULT 1 CHECK (complete IN (0, 1));
ALTER TABLE feature_vectors ADD COLUMN event_hash BLOB;
ALTER TABLE feature_vectors ADD COLUMN entry_id TEXT;
ALTER TABLE feature_vectors ADD COLUMN label_time TEXT;
ALTER TABLE feature_vectors ADD COLUMN label_revision INTEGER;

UPDATE feature_vectors
    SET label_time = max(timestamp, strftime('%Y-%m-%dT%H:%M:%f', coalesce(updated_at, created_at)) || '000Z'),
        label_revision = 0
    WHERE target_r_multiple IS NOT NULL;

CREATE INDEX idx_fv_training ON feature_vectors(feature_version, timestamp, signal_id)
    WHERE target_r_multiple IS NOT NULL;
CREATE INDEX idx_fv_label_time ON feature_vectors(label_time) WHERE label_time IS NOT NULL;

-- What trade.closed said, every revision, also before its signal. The vector carries the highest one.
CREATE TABLE trade_outcomes (
    signal_id TEXT NOT NULL,
    revision INTEGER NOT NULL CHECK (revision >= 0),
    closed_at TEXT NOT NULL,
    r_multiple REAL NOT NULL CHECK (abs(r_multiple) < 1e308),
    return_pct REAL CHECK (abs(return_pct) < 1e308),
    exit_reason TEXT,
    entry_id TEXT,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (signal_id, revision)
) STRICT, WITHOUT ROWID;

INSERT INTO trade_outcomes (signal_id, revision, closed_at, r_multiple, return_pct, recorded_at)
    SELECT signal_id, label_revision, label_time, target_r_multiple, target_return_pct, label_time
    FROM feature_vectors WHERE target_r_multiple IS NOT NULL;

-- Predictions: one for each signal and model, and what the model was at the time.
ALTER TABLE prediction_log ADD COLUMN role TEXT NOT NULL DEFAULT 'champion' CHECK (role IN ('champion', 'shadow'));
CREATE UNIQUE INDEX idx_pred_signal_model ON prediction_log(signal_id, model_id);

-- What was published for a signal, to the byte. Keyed by the vector's number, so that it grows at its end.
CREATE TABLE served_scores (
    vector_id INTEGER NOT NULL PRIMARY KEY REFERENCES feature_vectors(id),
    model_id TEXT REFERENCES model_registry(model_id),
    status TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Entries that said again what the store knew.
CREATE TABLE duplicate_events (
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    signal_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (stream, entry_id)
) STRICT, WITHOUT ROWID;

-- Models: the artefact that was registered, and whether the gate found skill.
ALTER TABLE model_registry ADD COLUMN artefact_sha256 TEXT;
ALTER TABLE model_registry ADD COLUMN feature_version TEXT;
ALTER TABLE model_registry ADD COLUMN recipe TEXT;
ALTER TABLE model_registry ADD COLUMN run_id TEXT;
ALTER TABLE model_registry ADD COLUMN proven INTEGER NOT NULL DEFAULT 0 CHECK (proven IN (0, 1));

CREATE TABLE promotions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    model_type TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('activate', 'retire', 'prove', 'demote', 'hold', 'reject')),
    model_id TEXT REFERENCES model_registry(model_id),
    previous_model_id TEXT REFERENCES model_registry(model_id),
    artefact_sha256 TEXT,
    proven INTEGER NOT NULL CHECK (proven IN (0, 1)),
    reason TEXT NOT NULL,
    figures TEXT NOT NULL,           -- JSON object
    run_id TEXT
) STRICT;

CREATE TRIGGER promotions_no_update BEFORE UPDATE ON promotions
    BEGIN SELECT raise(ABORT, 'the ledger of promotions is append-only'); END;
CREATE TRIGGER promotions_no_delete BEFORE DELETE ON promotions
    BEGIN SELECT raise(ABORT, 'the ledger of promotions is append-only'); END;

-- Training runs: which labels they knew, on what data, and what the gate said.
ALTER TABLE training_runs ADD COLUMN label_watermark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE training_runs ADD COLUMN data_digest TEXT;
ALTER TABLE training_runs ADD COLUMN verdict TEXT;
ALTER TABLE training_runs ADD COLUMN seconds REAL;

-- Events that could not be handled, with their bytes.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT,
    payload BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    signal_id TEXT,
    symbol TEXT,
    worker_version TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'replayed', 'discarded')),
    replay_of INTEGER,
    UNIQUE (stream, entry_id)
) STRICT;

CREATE INDEX idx_dead_status ON dead_letters(status, id);
CREATE INDEX idx_dead_signal ON dead_letters(signal_id) WHERE signal_id IS NOT NULL;

-- No foreign key: the audit outlives what it tells of.
CREATE TABLE dead_letter_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dead_letter_id INTEGER NOT NULL,
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    at TEXT NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    detail TEXT NOT NULL             -- JSON object
) STRICT;

CREATE INDEX idx_audit_dead_letter ON dead_letter_audit(dead_letter_id);
CREATE TRIGGER dead_letter_audit_no_update BEFORE UPDATE ON dead_letter_audit
    BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER dead_letter_audit_no_delete BEFORE DELETE ON dead_letter_audit
    BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;

-- Counters, so that the status of a large store is read in one step.
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES
    ('signals', (SELECT count(*) FROM feature_vectors)),
    ('incomplete', 0),
    ('labelled', (SELECT count(*) FROM feature_vectors WHERE target_r_multiple IS NOT NULL)),
    ('labels_total', (SELECT count(*) FROM feature_vectors WHERE target_r_multiple IS NOT NULL)),
    ('predictions', (SELECT count(*) FROM prediction_log)),
    ('outcomes', (SELECT count(*) FROM trade_outcomes)),
    ('waiting_outcomes', 0),
    ('duplicates', 0),
    ('dead_letters', 0),
    ('dead_letters_open', 0);

CREATE TRIGGER count_vector AFTER INSERT ON feature_vectors BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'signals';
END;
CREATE TRIGGER count_vector_gone AFTER DELETE ON feature_vectors BEGIN
    UPDATE counters SET value = value - 1
        WHERE name = 'signals' OR (name = 'incomplete' AND OLD.complete = 0)
            OR (name = 'labelled' AND OLD.target_r_multiple IS NOT NULL);
    UPDATE counters SET value = value + (SELECT count(*) FROM trade_outcomes WHERE signal_id = OLD.signal_id)
        WHERE name = 'waiting_outcomes';
END;
CREATE TRIGGER count_incomplete AFTER INSERT ON feature_vectors WHEN NEW.complete = 0 BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'incomplete';
END;
CREATE TRIGGER count_complete_changed AFTER UPDATE OF complete ON feature_vectors WHEN NEW.complete <> OLD.complete BEGIN
    UPDATE counters SET value = value + OLD.complete - NEW.complete WHERE name = 'incomplete';
END;
CREATE TRIGGER count_awaited AFTER INSERT ON feature_vectors
    WHEN EXISTS (SELECT 1 FROM trade_outcomes WHERE signal_id = NEW.signal_id) BEGIN
    UPDATE counters SET value = value - (SELECT count(*) FROM trade_outcomes WHERE signal_id = NEW.signal_id)
        WHERE name = 'waiting_outcomes';
END;

-- labels_total only grows: it is the clock that training runs take their watermark from.
CREATE TRIGGER count_label_at_once AFTER INSERT ON feature_vectors WHEN NEW.target_r_multiple IS NOT NULL BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'labelled' OR (name = 'labels_total' AND NEW.complete = 1);
END;
CREATE TRIGGER count_label AFTER UPDATE OF target_r_multiple ON feature_vectors
    WHEN OLD.target_r_multiple IS NULL AND NEW.target_r_multiple IS NOT NULL BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'labelled';
    UPDATE counters SET value = value + 1 WHERE name = 'labels_total' AND NEW.complete = 1;
END;
CREATE TRIGGER count_label_completed AFTER UPDATE OF complete ON feature_vectors
    WHEN OLD.complete = 0 AND NEW.complete = 1 AND OLD.target_r_multiple IS NOT NULL BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'labels_total';
END;

CREATE TRIGGER count_outcome AFTER INSERT ON trade_outcomes BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'outcomes';
END;
CREATE TRIGGER count_waiting AFTER INSERT ON trade_outcomes
    WHEN NOT EXISTS (SELECT 1 FROM feature_vectors WHERE signal_id = NEW.signal_id) BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'waiting_outcomes';
END;
CREATE TRIGGER count_outcome_gone AFTER DELETE ON trade_outcomes BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'outcomes';
    UPDATE counters SET value = value - 1 WHERE name = 'waiting_outcomes'
        AND NOT EXISTS (SELECT 1 FROM feature_vectors WHERE signal_id = OLD.signal_id);
END;

CREATE TRIGGER count_prediction AFTER INSERT ON prediction_log BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'predictions';
END;
CREATE TRIGGER count_prediction_gone AFTER DELETE ON prediction_log BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'predictions';
END;

CREATE TRIGGER count_duplicate AFTER INSERT ON duplicate_events BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'duplicates';
END;
CREATE TRIGGER count_duplicate_gone AFTER DELETE ON duplicate_events BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'duplicates';
END;

CREATE TRIGGER count_dead_letter AFTER INSERT ON dead_letters BEGIN
    UPDATE counters SET value = value + 1
        WHERE name = 'dead_letters' OR (name = 'dead_letters_open' AND NEW.status = 'open');
END;
CREATE TRIGGER count_dead_letter_gone AFTER DELETE ON dead_letters BEGIN
    UPDATE counters SET value = value - 1
        WHERE name = 'dead_letters' OR (name = 'dead_letters_open' AND OLD.status = 'open');
END;
CREATE TRIGGER count_dead_letter_settled AFTER UPDATE OF status ON dead_letters WHEN NEW.status <> OLD.status BEGIN
    UPDATE counters SET value = value + (NEW.status = 'open') - (OLD.status = 'open') WHERE name = 'dead_letters_open';
END;
