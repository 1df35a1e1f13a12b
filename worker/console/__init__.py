"""The console: pages for the people who watch this at night, and the RQ dashboard made safe under it."""
