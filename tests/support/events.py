"""Events as producers send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from worker.streams.shards import ShardStreams, Streams

SIGNALS = "signals.created"
TRADES = "trades.closed"
SCORES = "signals.scored"
GROUP = "ml-refinement"
STREAMS = Streams(ShardStreams(SIGNALS, TRADES, SCORES))
START = datetime(2024, 3, 1, 21, tzinfo=UTC)


def bars(count: int = 60, *, end: datetime = START, seed: int = 1) -> dict[str, list[Any]]:
    """Plausible daily bars that close at `end`."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    spread = close * rng.uniform(0.002, 0.02, count)
    return {
        "timestamp": [(end - timedelta(days=count - 1 - day)).isoformat() for day in range(count)],
        "open": (close - spread / 3).tolist(),
        "high": (close + spread).tolist(),
        "low": (close - spread).tolist(),
        "close": close.tolist(),
        "volume": rng.uniform(1e5, 1e6, count).tolist(),
    }


def signal(number: int, **changes: Any) -> dict[str, Any]:
    """A signal with its own bars."""
    at = START + timedelta(hours=number)
    fields = {
        "signal_id": f"s-{number}",
        "timestamp": at.isoformat(),
        "symbol": "ACME",
        "asset_class": "equity",
        "signal_type": "breakout",
        "conviction": "HIGH",
        "technical_score": 7.5,
        "combined_score": 6.0,
        "entry_price": 100.0,
        "target_price": 110.0,
        "stop_price": 95.0,
        "bars": bars(end=at, seed=number),
    }
    return fields | changes


def outcome(number: int, r_multiple: float = 1.5, **changes: Any) -> dict[str, Any]:
    """What became of that signal's trade."""
    closed = START + timedelta(hours=number, days=5)
    return {"signal_id": f"s-{number}", "closed_at": closed.isoformat(), "r_multiple": r_multiple} | changes
