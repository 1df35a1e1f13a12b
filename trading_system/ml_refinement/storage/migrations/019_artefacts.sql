-- The bytes of registered models, by their hash: a host that has the store needs no file of another host.
CREATE TABLE artefacts (
    sha256 TEXT NOT NULL PRIMARY KEY,
    data BLOB NOT NULL,
    size INTEGER NOT NULL,
    kept_at TEXT NOT NULL
) STRICT;
