-- How far something has been looked through, by name: what lies before a mark is never looked at again.
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
