-- What an operator pinned, and how each training's candidate serves.

ALTER TABLE model_registry ADD COLUMN pinned_at TEXT;
ALTER TABLE model_registry ADD COLUMN pinned_by TEXT;
CREATE UNIQUE INDEX idx_model_type_pinned ON model_registry(model_type) WHERE pinned_at IS NOT NULL;
-- Only what serves is pinned, also where a statement of somebody's own takes it out of service.
CREATE TRIGGER unpin_retired AFTER UPDATE OF is_active ON model_registry
    WHEN NEW.is_active = 0 AND NEW.pinned_at IS NOT NULL BEGIN
    UPDATE model_registry SET pinned_at = NULL, pinned_by = NULL WHERE id = NEW.id;
END;

-- The gate's verdict is one thing, serving another: "not proven" and "serves provisionally" are both true of one candidate.
ALTER TABLE training_runs ADD COLUMN serves TEXT CHECK (serves IN ('proven', 'provisional', 'no'));
UPDATE training_runs SET serves = coalesce(
    (SELECT iif(p.proven, 'proven', 'provisional') FROM promotions AS p
     WHERE p.run_id = training_runs.run_id AND p.model_id = training_runs.model_id AND p.action = 'activate'
     ORDER BY p.id LIMIT 1),
    'no')
WHERE verdict IS NOT NULL;

-- The ledger names two more actions; a CHECK is changed by making the table again.
CREATE TABLE promotions_with_pins (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    model_type TEXT NOT NULL,
    action TEXT NOT NULL
        CHECK (action IN ('activate', 'retire', 'prove', 'demote', 'hold', 'reject', 'pin', 'unpin')),
    model_id TEXT REFERENCES model_registry(model_id),
    previous_model_id TEXT REFERENCES model_registry(model_id),
    artefact_sha256 TEXT,
    proven INTEGER NOT NULL CHECK (proven IN (0, 1)),
    reason TEXT NOT NULL,
    figures TEXT NOT NULL,           -- JSON object
    run_id TEXT,
    actor TEXT
) STRICT;
INSERT INTO promotions_with_pins
    (id, at, model_type, action, model_id, previous_model_id, artefact_sha256, proven, reason, figures, run_id,
     actor)
SELECT id, at, model_type, action, model_id, previous_model_id, artefact_sha256, proven, reason, figures, run_id,
    actor
FROM promotions;
DROP TABLE promotions;
ALTER TABLE promotions_with_pins RENAME TO promotions;

CREATE TRIGGER promotions_no_update BEFORE UPDATE ON promotions
    BEGIN SELECT raise(ABORT, 'the ledger of promotions is append-only'); END;
CREATE TRIGGER promotions_no_delete BEFORE DELETE ON promotions
    BEGIN SELECT raise(ABORT, 'the ledger of promotions is append-only'); END;
