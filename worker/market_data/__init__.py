"""Bars for signals that bring none."""
