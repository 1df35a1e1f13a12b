"""Training: the walk-forward evidence, the candidate, and the gate."""
