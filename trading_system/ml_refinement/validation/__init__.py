"""Validation: who is trained on when, and the figures of what was predicted."""
