-- The bytes of an outcome for as long as its signal has not come: where the signal shows that the trade closed before it,
-- the outcome becomes a dead letter, and these are its original bytes. Empty whenever nothing waits.
CREATE TABLE waiting_payloads (
    signal_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (signal_id, revision)
) STRICT, WITHOUT ROWID;
