"""Valid events to break: one small, one with every field, and an outcome."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from worker.events.decoding import Decoded, Limits, SignalCreated, TradeClosed, decode

NOW = datetime(2024, 7, 1, 12, tzinfo=UTC)
LIMITS = Limits()
AT = "2024-05-31T20:00:00Z"


def bars(count: int = 5, *, last: str = AT, seed: int = 7) -> dict[str, list[Any]]:
    """Sound columns of daily bars, the newest closing at `last`."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    open_ = close * np.exp(rng.normal(0, 0.005, count))
    end = datetime.fromisoformat(last)
    days = [end - timedelta(days=count - 1 - i) for i in range(count)]
    return {
        "timestamp": [day.strftime("%Y-%m-%dT%H:%M:%SZ") for day in days],
        "open": open_.round(4).tolist(),
        "high": (np.maximum(open_, close) + 0.5).round(4).tolist(),
        "low": (np.minimum(open_, close) - 0.5).round(4).tolist(),
        "close": close.round(4).tolist(),
        "volume": rng.integers(1_000, 9_000_000, count).tolist(),
    }


def signal(**changes: Any) -> dict[str, Any]:
    """A small valid signal; a value of `...` takes the field out."""
    event = {
        "signal_id": "sig-1",
        "timestamp": AT,
        "symbol": "AAPL",
        "asset_class": "equity",
        "signal_type": "breakout",
        **changes,
    }
    return {name: value for name, value in event.items() if value is not ...}


def full_signal(**changes: Any) -> dict[str, Any]:
    """A valid signal with every field of the contract."""
    news = {
        "published_at": "2024-05-31T19:00:00Z",
        "sentiment": 0.4,
        "relevance": 0.9,
        "source": "wire",
        "headline": "up",
    }
    return signal(
        **{
            "direction": "short",
            "conviction": "High",
            "technical_score": 7.5,
            "news_score": 3,
            "combined_score": 6.25,
            "entry_price": 187.25,
            "target_price": 175,
            "stop_price": 193.5,
            "position_size_pct": 1.5,
            "bars": bars(),
            "benchmark": bars(seed=8),
            "news": [news, {"published_at": "2024-05-30T19:00:00Z", "sentiment": -1}],
            "features": {"funding_rate": -0.0125, "desk_edge": 3, "c2": 1e-7},
            "schema_version": 1,
            **changes,
        }
    )


def with_bars(**columns: Any) -> dict[str, Any]:
    """A signal whose bars have these columns in place of sound ones; `...` takes a column out."""
    changed = {**bars(), **columns}
    return signal(bars={name: column for name, column in changed.items() if column is not ...})


def outcome(**changes: Any) -> dict[str, Any]:
    """A valid outcome; a value of `...` takes the field out."""
    event = {
        "signal_id": "sig-1",
        "closed_at": "2024-06-02T20:00:00Z",
        "r_multiple": 1.75,
        "return_pct": 3.5,
        "exit_reason": "target",
        "revision": 0,
        **changes,
    }
    return {name: value for name, value in event.items() if value is not ...}


def text(event: dict[str, Any]) -> bytes:
    """JSON as Python writes it: spaces, escapes, and NaN where there is one."""
    return json.dumps(event).encode()


def read(kind: str, data: bytes | dict[str, Any], limits: Limits = LIMITS) -> Decoded:
    """Through the door."""
    return decode(kind, data if isinstance(data, bytes) else text(data), now=NOW, limits=limits)


def read_signal(data: bytes | dict[str, Any], limits: Limits = LIMITS) -> SignalCreated:
    """A signal through the door."""
    event = read("signal.created", data, limits).event
    assert isinstance(event, SignalCreated)
    return event


def read_outcome(data: bytes | dict[str, Any]) -> TradeClosed:
    """An outcome through the door."""
    event = read("trade.closed", data).event
    assert isinstance(event, TradeClosed)
    return event
