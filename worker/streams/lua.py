"""The scripts that the server runs, each in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files


def script(name: str, *, uses: Sequence[str] = ()) -> str:
    """The text of `scripts/NAME.lua`, after that of the scripts whose functions it uses."""
    folder = files(__package__).joinpath("scripts")
    return "\n".join(folder.joinpath(f"{each}.lua").read_text(encoding="utf-8") for each in (*uses, name))
