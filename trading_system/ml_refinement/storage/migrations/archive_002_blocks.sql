-- Events that were kept together, compressed as one. A row of `events` then says in which block it stands, and where.
CREATE TABLE blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    newest_at TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX idx_blocks_newest ON blocks(newest_at);
