-- The bytes of registered models, by their hash: a host that has the store needs no file of another host.
CREATE TABLE artefacts (
    sha256 text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL,
    size bigint NOT NULL,
    kept_at text COLLATE "C" NOT NULL
);
