"""Processes: children, signals, slots, and pauses between tries."""
