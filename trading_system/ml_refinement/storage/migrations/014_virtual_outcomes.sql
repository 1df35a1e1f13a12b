-- What the bars after a signal say that its trade would have come to. What a trade reported stays where it is: in
-- trade_outcomes and in the vector's targets, which nothing of this table ever enters.
CREATE TABLE virtual_outcomes (
    signal_id TEXT NOT NULL PRIMARY KEY REFERENCES feature_vectors(signal_id) ON DELETE CASCADE,
    r REAL CHECK (abs(r) < 1e308),   -- NULL: there was no such trade, and later bars will not change that
    ended TEXT NOT NULL,             -- stop, target, time; without an R the reason why there is none
    known_at TEXT,                   -- the close of the bar that ended the trade
    version TEXT NOT NULL,           -- of rule and parameters: another one, and the signal is looked at again
    labelled_at TEXT NOT NULL,
    CHECK ((r IS NULL) = (known_at IS NULL))
) STRICT, WITHOUT ROWID;
