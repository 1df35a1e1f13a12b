-- What lists, counts, groups and searches dead letters reads, beside their bytes and not across them: a row's columns
-- behind a large payload are many pages away.
CREATE INDEX idx_dead_listing ON dead_letters(
    status, id, reason, stream, symbol, signal_id, fingerprint, first_seen, last_seen, attempts, entry_id, replay_of,
    replays, worker_version, error);
DROP INDEX idx_dead_status;
