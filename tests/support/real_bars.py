"""Real bars for the tests and the benchmark: daily, adjusted, the last 400 or so of each series, with the S&P 500."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import arch.data.sp500
import bokeh_sampledata
import pandas as pd

SYMBOLS = ("AAPL", "IBM", "MSFT")


@cache
def stock(symbol: str, first: int = 900, count: int = 330) -> pd.DataFrame:
    """Bars of a symbol, scaled so that the close is the adjusted close; the index is the close time in UTC."""
    path = Path(bokeh_sampledata.__file__).parent / "_data" / "stocks.csv.gz"
    table = pd.read_csv(path)
    return _bars(table[table["Ticker"] == symbol].set_index("Date")).iloc[first : first + count]


@cache
def index() -> pd.DataFrame:
    """Bars of the S&P 500."""
    return _bars(arch.data.sp500.load())


def _bars(table: pd.DataFrame) -> pd.DataFrame:
    table = table.rename(columns=str.lower)
    scale = table["adj close"] / table["close"]
    scaled = table[["open", "high", "low", "close"]].mul(scale, axis=0).assign(volume=table["volume"].astype(float))
    times = pd.DatetimeIndex(pd.to_datetime(table.index)).tz_localize("America/New_York") + pd.Timedelta(hours=16)
    return scaled.set_axis(times.tz_convert("UTC").as_unit("us"))
