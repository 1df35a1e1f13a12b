-- Who may do what only one process may at a time, on whichever host; times are the database's own.
CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    holder text COLLATE "C" NOT NULL,
    token bigint NOT NULL,                       -- one more with each holder
    until text COLLATE "C" NOT NULL              -- empty: given back
);
