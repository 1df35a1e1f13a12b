-- How many shards the installation has; chosen when the schema is made.
CREATE TABLE shards (
    only_row integer PRIMARY KEY CHECK (only_row = 1),
    number integer NOT NULL CHECK (number BETWEEN 1 AND 64)
);
INSERT INTO shards (only_row, number) VALUES (1, 1);

-- A row of each counter for each shard, so that shards do not wait for each other's commits. What one shard's transaction
-- counted another one's may count off: only the sum is never below zero.
ALTER TABLE counters DROP CONSTRAINT counters_pkey;
ALTER TABLE counters DROP CONSTRAINT counters_value_check;
ALTER TABLE counters ADD COLUMN shard integer NOT NULL DEFAULT 0;
ALTER TABLE counters ADD PRIMARY KEY (name, shard);

CREATE OR REPLACE FUNCTION add_to_counter(counter text, rows bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE own integer := coalesce(CAST(nullif(current_setting('signal_refinery.shard', true), '') AS integer), 0);
BEGIN
    IF rows <> 0 THEN
        UPDATE counters SET value = value + rows WHERE name = counter AND shard = own;
        IF NOT FOUND THEN INSERT INTO counters (name, shard, value) VALUES (counter, own, rows); END IF;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION count_vectors() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE found record;
BEGIN
    SELECT count(*) FILTER (WHERE complete = 0) AS incomplete,
        count(*) FILTER (WHERE target_r_multiple IS NOT NULL) AS labelled,
        count(*) FILTER (WHERE target_r_multiple IS NOT NULL AND complete = 1) AS labels_total
        INTO found FROM added;
    PERFORM add_to_counter('incomplete', found.incomplete), add_to_counter('labelled', found.labelled),
        add_to_counter('labels_total', found.labels_total);
    IF (SELECT sum(value) > 0 FROM counters WHERE name = 'waiting_outcomes') THEN
        PERFORM add_to_counter('waiting_outcomes', -(SELECT count(*) FROM added JOIN trade_outcomes USING (signal_id)));
    END IF;
    RETURN NULL;
END $$;
