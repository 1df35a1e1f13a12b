"""The command that makes what the settings keep of a password."""

from __future__ import annotations

import sys

import typer

from worker.cli import output
from worker.errors import RefineryError
from worker.settings.passwords import SHORTEST_PASSWORD, hash_password


def hash_password_() -> None:
    """The hash of a password, for REFINERY_CONSOLE_OPERATORS and _VIEWERS. Asks for it, or reads it from stdin.

    \f
    Raises:
        RefineryError: it is too short.
    """
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < SHORTEST_PASSWORD:
        raise RefineryError(f"a password must have at least {SHORTEST_PASSWORD} characters")
    output.line(hash_password(password))
