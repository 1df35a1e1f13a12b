"""What an examination finds: one line for each part that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is what to do about it, empty where nothing is."""

    part: str
    verdict: Verdict
    says: str
    advice: str = ""
