-- The tables of the feature store. Dates are text; see storage/times.py for the form.
-- IF NOT EXISTS: a store that was left half made by something other than our migrations is completed, not refused.

CREATE TABLE IF NOT EXISTS feature_vectors (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signal_id TEXT NOT NULL UNIQUE,
    timestamp TEXT NOT NULL,
    features TEXT NOT NULL,          -- JSON object, name to number
    target_r_multiple REAL,          -- the targets stay NULL until the trade has closed
    target_binary INTEGER,           -- 1 a win, 0 a loss
    target_return_pct REAL,
    feature_version TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT,
    symbol TEXT,
    asset_class TEXT,
    signal_type TEXT,
    conviction TEXT
);

CREATE INDEX IF NOT EXISTS idx_fv_signal_id ON feature_vectors(signal_id);
CREATE INDEX IF NOT EXISTS idx_fv_timestamp ON feature_vectors(timestamp);
CREATE INDEX IF NOT EXISTS idx_fv_symbol ON feature_vectors(symbol);
CREATE INDEX IF NOT EXISTS idx_fv_asset_class ON feature_vectors(asset_class);
CREATE INDEX IF NOT EXISTS idx_fv_has_target ON feature_vectors(target_r_multiple IS NOT NULL);

CREATE TABLE IF NOT EXISTS model_registry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id TEXT NOT NULL UNIQUE,
    model_type TEXT NOT NULL,
    version TEXT NOT NULL,
    created_at TEXT NOT NULL,
    train_start_date TEXT,
    train_end_date TEXT,
    train_samples INTEGER,
    validation_samples INTEGER,
    train_metrics TEXT,              -- JSON object
    validation_metrics TEXT,         -- JSON object
    feature_names TEXT,              -- JSON array, in the model's order
    feature_importance TEXT,         -- JSON object
    model_path TEXT,                 -- the file's name in the model directory
    is_active INTEGER NOT NULL DEFAULT 0,
    deployed_at TEXT,
    retired_at TEXT
);

CREATE INDEX IF NOT EXISTS idx_model_type ON model_registry(model_type);
CREATE INDEX IF NOT EXISTS idx_model_active ON model_registry(is_active);
CREATE UNIQUE INDEX IF NOT EXISTS idx_model_type_active ON model_registry(model_type) WHERE is_active = 1;

CREATE TABLE IF NOT EXISTS feature_definitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    category TEXT NOT NULL,          -- technical, market, signal, news
    description TEXT,
    data_type TEXT NOT NULL,         -- float, int, bool
    computation TEXT,
    dependencies TEXT,               -- JSON array
    created_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS training_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    model_type TEXT NOT NULL,
    started_at TEXT NOT NULL,
    completed_at TEXT,
    status TEXT NOT NULL,            -- running, completed, failed
    config TEXT,                     -- JSON object
    train_samples INTEGER,
    validation_samples INTEGER,
    best_iteration INTEGER,
    metrics TEXT,                    -- JSON object
    model_id TEXT,
    error_message TEXT
);

CREATE INDEX IF NOT EXISTS idx_training_status ON training_runs(status);
CREATE INDEX IF NOT EXISTS idx_training_model_type ON training_runs(model_type);

CREATE TABLE IF NOT EXISTS prediction_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signal_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    predicted_at TEXT NOT NULL,
    quality_score REAL,              -- probability of a win
    predicted_r REAL,
    confidence REAL,
    actual_r REAL,                   -- the outcome and the row's own error, once known
    prediction_error REAL,
    FOREIGN KEY (model_id) REFERENCES model_registry(model_id)
);

CREATE INDEX IF NOT EXISTS idx_pred_signal ON prediction_log(signal_id);
CREATE INDEX IF NOT EXISTS idx_pred_model ON prediction_log(model_id);

-- One row for each migration; the runner writes it in the migration's own transaction.
CREATE TABLE IF NOT EXISTS ml_schema_migrations (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
);
