-- Who may do what only one process may at a time, on whichever host; times are the database's own.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    token INTEGER NOT NULL,  -- one more with each holder
    until TEXT NOT NULL      -- empty: given back
) STRICT;
