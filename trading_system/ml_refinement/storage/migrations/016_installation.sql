-- Which store this is, wherever it lies: what Redis holds of the installation that handles a stream is compared with it.
CREATE TABLE installation (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    id TEXT NOT NULL
) STRICT;
INSERT INTO installation (only_row, id) VALUES (1, lower(hex(randomblob(16))));
