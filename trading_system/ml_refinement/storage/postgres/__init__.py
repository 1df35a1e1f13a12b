"""The store in PostgreSQL: one schema an installation. Loaded only where a store's URL says so."""
