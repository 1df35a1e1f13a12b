"""`refinery demo`: everything `up` runs, a replay of real prices through it, and a summary of what came of it."""
