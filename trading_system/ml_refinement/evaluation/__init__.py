"""Evaluation: every figure of a report on a store, its past walked forward and what was served."""
