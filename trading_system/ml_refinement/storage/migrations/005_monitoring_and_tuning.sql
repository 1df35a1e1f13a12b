-- What monitoring found, each time it looked, and how many parameter settings tuning has tried.

CREATE TABLE monitoring_reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    cause TEXT NOT NULL,             -- 'schedule' or 'training'
    model_id TEXT,                   -- what served then
    newest_run INTEGER NOT NULL,     -- token of the newest training then, 0 before the first
    alarms TEXT NOT NULL,            -- JSON array of {name, why}
    figures TEXT NOT NULL,           -- JSON object
    features TEXT NOT NULL,          -- JSON array of {name, psi, limit, missing, ...}
    requested TEXT                   -- id of the training that was asked for, if one was
) STRICT;

-- One row for each parameter setting that was tried: the gate makes a new recipe pay for all of them.
CREATE TABLE tuning_trials (
    study TEXT NOT NULL,
    number INTEGER NOT NULL,
    at TEXT NOT NULL,
    recipe TEXT NOT NULL,
    parameters TEXT NOT NULL,        -- JSON object
    log_loss_gain REAL NOT NULL,     -- below the base rate's, on the inner folds
    window_digest TEXT NOT NULL,     -- SHA-256 of the rows that were looked at
    PRIMARY KEY (study, number)
) STRICT, WITHOUT ROWID;
