"""Bytes to events, or a reason code."""
