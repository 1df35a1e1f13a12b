"""Real daily bars from the packages of the `demo` extra, as frames and as a market-data directory.

A frame of bars is indexed by `timestamp`, the UTC instant at which the bar closed, strictly increasing, and has the
float columns `open`, `high`, `low`, `close`, `volume`.

Prices are adjusted for splits and dividends by the provider, backwards from the last day. The level of an early price
is therefore one that nobody saw on that day; ratios of prices, which is all that returns, stops in ATR and R-multiples
are made of, are not touched by it. Volume is as provided. A half-day session is stamped at the regular close too:
later than it ended, never earlier.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pandas as pd

#: Symbol of the S&P 500, the market that equities are compared with.
BENCHMARK: Final = "SP500"
#: Symbols of the indexes; everything else is an equity.
INDEXES: Final = (BENCHMARK, "NASDAQ")
COLUMNS: Final = ("open", "high", "low", "close", "volume")

_EXCHANGE: Final = ZoneInfo("America/New_York")
_SESSION_END: Final = time(16, 0)
_STOCKS: Final = ("bokeh_sampledata", "_data/stocks.csv.gz")
_INDEX_FILES: Final = {
    "SP500": ("arch", "data/sp500/sp500.csv.gz"),
    "NASDAQ": ("arch", "data/nasdaq/nasdaq.csv.gz"),
}


class MarketDataMissing(RuntimeError):
    """The packages that carry the demo's prices are not installed, or do not hold what is expected of them."""


def load_stocks() -> dict[str, pd.DataFrame]:
    """Daily bars of AAPL, FB, GOOG, IBM and MSFT, March 2000 to March 2013, by symbol.

    Raises:
        MarketDataMissing: the `demo` extra is not installed.
    """
    table = _read(*_STOCKS)
    return {str(symbol): _bars(rows) for symbol, rows in table.groupby("Ticker", sort=True)}


def load_indexes() -> dict[str, pd.DataFrame]:
    """Daily bars of the S&P 500 and the NASDAQ Composite, 1999 to 2018, by symbol.

    Raises:
        MarketDataMissing: the `demo` extra is not installed.
    """
    return {symbol: _bars(_read(*place)) for symbol, place in _INDEX_FILES.items()}


def write_directory(market: Mapping[str, pd.DataFrame], directory: Path) -> list[Path]:
    """Write one `SYMBOL.csv` per symbol, with columns timestamp (RFC 3339 close time), open, high, low, close, volume.

    Existing files of these names are replaced. Prices are written in full, so that they read back to the same floats.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for symbol, bars in market.items():
        path = directory / f"{symbol}.csv"
        bars.to_csv(path, columns=list(COLUMNS), index_label="timestamp", date_format="%Y-%m-%dT%H:%M:%SZ")
        paths.append(path)
    return paths


def _read(package: str, name: str) -> pd.DataFrame:
    """A table from a package's files, without importing the package: these are wanted for their data alone."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MarketDataMissing(
            f"the demo's market data is not installed ({package}): install the extra, signal-refinery[demo]"
        )
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise MarketDataMissing(f"{package} is installed without {name}: install the pinned version of the demo extra")
    return pd.read_csv(path)


def _bars(table: pd.DataFrame) -> pd.DataFrame:
    """Adjusted bars stamped with their close time, from a provider's table of dates, prices and adjusted closes."""
    factor = (table["Adj Close"] / table["Close"]).to_numpy()
    bars = pd.DataFrame(
        {name: table[name.capitalize()].to_numpy(dtype="float64") * factor for name in COLUMNS[:-1]},
        index=_close_times(table["Date"]),
    )
    bars["volume"] = table["Volume"].to_numpy(dtype="float64")
    _check(bars)
    return bars


def _close_times(dates: pd.Series) -> pd.DatetimeIndex:
    """The UTC instants at which the New York sessions of these dates ended; summer time makes them 20:00 or 21:00."""
    ends = pd.DatetimeIndex(dates) + pd.Timedelta(hours=_SESSION_END.hour, minutes=_SESSION_END.minute)
    return pd.DatetimeIndex(ends.tz_localize(_EXCHANGE).tz_convert("UTC"), name="timestamp")


def _check(bars: pd.DataFrame) -> None:
    """Refuse bars that no market can have made: a simulation on them would invent trades."""
    consistent = (
        (bars["low"] > 0)
        & (bars["low"] <= bars[["open", "close"]].min(axis="columns"))
        & (bars["high"] >= bars[["open", "close"]].max(axis="columns"))
        & (bars["volume"] >= 0)
        & bars.notna().all(axis="columns")
    )
    if not consistent.all():
        first = bars.index[~consistent][0]
        raise MarketDataMissing(f"{int((~consistent).sum())} inconsistent bars, the first of {first:%Y-%m-%d}")
    if not bars.index.is_monotonic_increasing or not bars.index.is_unique:
        raise MarketDataMissing("bars are not in the order of their dates")
