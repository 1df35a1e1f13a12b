"""Signals in the console: looked for, exported, and each with its chart and the reasons of its score."""
