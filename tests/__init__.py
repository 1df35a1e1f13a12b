"""Tests stand where their subject does: `worker/consumer/` and `trading_system/ml_refinement/storage/` are tested in
`tests/consumer/` and `tests/storage/`, a module at the top of a package at the top here.

Of the whole system: `faults/` (what is killed and fails on purpose), `deploy/` (compose, units, documents, examples),
`packaging/`. Builders of events, rows and installations are in `support/`; fixtures of one folder in its `conftest.py`.
"""
