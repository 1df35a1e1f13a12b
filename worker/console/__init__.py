"""The console: pages for the people who watch this at night, and the RQ dashboard made safe under it."""

from worker.console.application import create_app, run_console

__all__ = ["create_app", "run_console"]
