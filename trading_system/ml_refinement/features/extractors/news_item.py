"""One piece of news about a symbol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewsItem:
    """`published_us` in microseconds since the epoch, `sentiment` -1 to 1, `relevance` 0 to 1."""

    published_us: int
    sentiment: float
    relevance: float = 1.0
