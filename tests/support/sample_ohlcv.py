"""Frames of bars as a quant has them in a notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd


def create_sample_ohlcv(
    count: int, *, seed: int = 0, start: str | None = "2023-01-02", drift: float = 0.0
) -> pd.DataFrame:
    """Daily bars of a random walk; without `start` the rows have no times, only positions."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(drift, 0.012, count)))
    open_ = close * np.exp(rng.normal(0.0, 0.004, count))
    columns = {
        "open": open_,
        "high": np.maximum(open_, close) * (1.0 + rng.uniform(0.001, 0.01, count)),
        "low": np.minimum(open_, close) * (1.0 - rng.uniform(0.001, 0.01, count)),
        "close": close,
        "volume": rng.uniform(1e5, 1e6, count).round(),
    }
    index = None if start is None else pd.date_range(start, periods=count, freq="D", tz="UTC")
    return pd.DataFrame(columns, index=index)


def flat_ohlcv(count: int, price: float = 100.0) -> pd.DataFrame:
    """A market that does not move at all."""
    return pd.DataFrame(
        {name: [price] * count for name in ("open", "high", "low", "close")} | {"volume": [1000.0] * count}
    )


def ohlcv_of(closes: list[float]) -> pd.DataFrame:
    """Bars without times around these closes."""
    close = np.asarray(closes, dtype=float)
    return pd.DataFrame({"open": close, "high": close + 1.0, "low": close - 1.0, "close": close, "volume": 1000.0})
