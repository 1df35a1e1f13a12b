-- How many rows are kept aside, told without reading them.
INSERT INTO counters (name, value) VALUES ('quarantined', (SELECT count(*) FROM quarantine));
CREATE TRIGGER count_quarantined AFTER INSERT ON quarantine BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'quarantined';
END;
CREATE TRIGGER count_quarantined_gone AFTER DELETE ON quarantine BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'quarantined';
END;
