"""Backup and restore, pruning, the rebuild of vectors."""
