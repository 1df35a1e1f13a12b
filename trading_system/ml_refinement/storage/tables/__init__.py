"""The tables of the store: one small class each, its statements below it."""
