"""The store in one SQLite file: its connection, whole copies, and files that another program began."""
