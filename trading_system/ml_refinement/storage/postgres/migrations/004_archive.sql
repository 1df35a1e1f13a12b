-- Events as they were received, and the blocks in which those of a batch are packed together.
-- An event is kept once however often it is delivered. A unique key has to hold the partition's, so that is a function of
-- the entry alone: the milliseconds in its id, -1 where there are none. A block is in no key but its own, and lies by age.
-- The months' partitions are made ahead by `refinery store upgrade` and by workers; the default one takes what has none.
CREATE FUNCTION ms_of_entry(entry_id text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(CAST(substring(entry_id FROM '^([0-9]{1,18})-') AS bigint), -1);

CREATE SEQUENCE events_id;
CREATE TABLE events (
    id bigint NOT NULL DEFAULT nextval('events_id'),
    stream text COLLATE "C" NOT NULL,
    entry_id text COLLATE "C" NOT NULL,
    entry_ms bigint NOT NULL,
    received_at text COLLATE "C" NOT NULL,
    packed integer NOT NULL CHECK (packed IN (0, 1)),
    payload bytea NOT NULL,
    UNIQUE (stream, entry_ms, entry_id)
) PARTITION BY RANGE (entry_ms);
ALTER SEQUENCE events_id OWNED BY events.id;
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;    -- it is compressed already
CREATE INDEX idx_events_id ON events (id);
CREATE INDEX idx_events_received ON events (received_at);
CREATE TABLE events_other PARTITION OF events DEFAULT;

CREATE SEQUENCE blocks_id;
CREATE TABLE blocks (
    id bigint NOT NULL DEFAULT nextval('blocks_id'),
    newest_at text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    UNIQUE (id, newest_at)
) PARTITION BY RANGE (newest_at);
ALTER SEQUENCE blocks_id OWNED BY blocks.id;
ALTER TABLE blocks ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX idx_blocks_newest ON blocks (newest_at);
CREATE TABLE blocks_other PARTITION OF blocks DEFAULT;
