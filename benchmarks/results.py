"""Results of long benchmarks, a case a line of JSON, written when it is done: a killed run loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Results:
    """A file of results. Lines measured with code that behaves otherwise (`behaviour`) are kept and not counted."""

    path: Path
    behaviour: str

    def add(self, part: str, case: tuple[Any, ...], figures: dict[str, Any]) -> None:
        """Append one result."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"behaviour": self.behaviour, "part": part, "case": list(case), **_rounded(figures)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Results that count, in the order they were measured, the first of each case only."""
        seen = set()
        for text in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            line = json.loads(text)
            key = (line["part"], tuple(line["case"]))
            if line["behaviour"] == self.behaviour and key not in seen:
                seen.add(key)
                yield line

    def missing(self, part: str, cases: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Cases of a part without a result."""
        done = {tuple(line["case"]) for line in self.lines() if line["part"] == part}
        return [case for case in cases if case not in done]


def until(deadline: float, cases: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The cases, as long as the monotonic clock has not reached the deadline."""
    for case in cases:
        if time.monotonic() >= deadline:
            return
        yield case


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [round(x, 6) for x in value] if isinstance(value, list) else round(value, 6)
        for name, value in figures.items()
    }
