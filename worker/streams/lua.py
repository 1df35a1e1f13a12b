"""The scripts that the server runs, each in a file of its own."""

from __future__ import annotations

from importlib.resources import files


def script(name: str) -> str:
    """The text of `scripts/NAME.lua`."""
    return files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
