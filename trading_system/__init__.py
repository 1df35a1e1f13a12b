"""The trading system's library side: learning from signals and their outcomes."""
