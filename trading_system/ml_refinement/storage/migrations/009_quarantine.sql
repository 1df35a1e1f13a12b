-- Rows that another program wrote and that cannot be used as they are, whole and as they were. `removed` rows are gone from
-- their table, `corrected` ones stand there with what could be made of them. Where rows are checked before an
-- earlier step, the table is made then.
CREATE TABLE IF NOT EXISTS quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    table_name TEXT NOT NULL,
    row_id INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('removed', 'corrected')),
    reason TEXT NOT NULL,
    original TEXT NOT NULL           -- JSON object, column to value; see storage/quarantine.py for what JSON cannot say
) STRICT;
