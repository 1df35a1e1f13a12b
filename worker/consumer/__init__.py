"""Fetch, handle, settle: the loop, and a batch into effects."""
