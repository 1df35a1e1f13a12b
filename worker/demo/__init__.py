"""`refinery demo`: everything `up` runs, a replay of real prices through it, and a summary of what came of it."""

from worker.demo.stage import run, show

__all__ = ["run", "show"]
