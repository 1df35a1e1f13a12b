"""The list of lines: what it holds, what is wrong with it, and a line broken."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LISTS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Line:
    """A line that enforces a rule: where it is, what is put in its place, and the tests that have to notice."""

    area: str
    rule: str
    file: str
    text: str
    broken: str
    tests: tuple[str, ...]


def kept_lines() -> list[Line]:
    """Every line of the lists, which are named after their area."""
    return [
        Line(path.stem.replace("_", " "), one["rule"], one["file"], one["text"], one["broken"], tuple(one["tests"]))
        for path in sorted(LISTS.glob("*.toml"))
        for one in tomllib.loads(path.read_text(encoding="utf-8"))["line"]
    ]


def broken(text: str, line: Line) -> str:
    """The file's text with the line broken.

    Raises:
        ValueError: the line is not there once.
    """
    if text.count(line.text) != 1:
        raise ValueError(f"{line.file} has {line.text.strip()!r} {text.count(line.text)} times")
    return text.replace(line.text, line.broken)


def faults(lines: Sequence[Line], root: Path) -> list[str]:
    """What is wrong with the list: a line that is not found once, a break that changes nothing, a test that is gone."""
    found = []
    for line in lines:
        path = root / line.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (times := text.count(line.text)) != 1:
            found.append(f"{line.file}: found {times} times: {line.text.strip()!r}")
        if line.text == line.broken or not line.tests:
            found.append(f"{line.file}: breaks nothing, or has no test: {line.rule}")
        for test in line.tests:
            file, _, name = test.partition("::")
            source = (root / file).read_text(encoding="utf-8") if (root / file).is_file() else ""
            if f"def {name.partition('[')[0]}(" not in source and (name or not source):
                found.append(f"{line.file}: there is no test {test}")
    twice = [key for key, count in Counter((line.file, line.text, line.broken) for line in lines).items() if count > 1]
    return found + [f"{file}: stands twice: {text.strip()!r}" for file, text, _ in twice]
