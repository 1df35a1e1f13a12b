"""What somebody is to be told: which changes of the store are worth it, and the table in which they wait."""
