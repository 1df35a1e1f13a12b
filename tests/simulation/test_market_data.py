"""Real bars: adjusted without contradiction, stamped with the instant of their close, written to be read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading_system.simulation import market_data
from trading_system.simulation.market_data import (
    COLUMNS,
    INDEXES,
    MarketDataMissing,
    load_indexes,
    load_stocks,
    write_directory,
)


@pytest.fixture(scope="module")
def market() -> dict[str, pd.DataFrame]:
    return load_stocks() | load_indexes()


def test_the_market_is_five_stocks_and_two_indexes(market: dict[str, pd.DataFrame]) -> None:
    assert set(market) == {"AAPL", "FB", "GOOG", "IBM", "MSFT", *INDEXES}
    assert {symbol: len(bars) for symbol, bars in market.items() if symbol not in INDEXES} == {
        "AAPL": 3270,
        "FB": 196,
        "GOOG": 2148,
        "IBM": 3270,
        "MSFT": 3270,
    }


def test_a_close_is_the_adjusted_close(market: dict[str, pd.DataFrame]) -> None:
    first = market["AAPL"].iloc[0]
    assert first["close"] == pytest.approx(4.186663)
    assert first["open"] == pytest.approx(118.56 * 4.186663 / 130.31)
    assert first["volume"] == 9_616_100


def test_a_split_leaves_no_gap(market: dict[str, pd.DataFrame]) -> None:
    bars = market["AAPL"]
    day = bars.index.get_indexer(pd.DatetimeIndex([pd.Timestamp("2005-02-28T21:00:00Z")]))[0]
    assert 0.95 < bars["close"].iloc[day] / bars["close"].iloc[day - 1] < 1.05


def test_bars_are_stamped_with_the_close_in_new_york_in_winter_and_in_summer(market: dict[str, pd.DataFrame]) -> None:
    stamps = market["IBM"].index
    assert stamps[0] == pd.Timestamp("2000-03-01T21:00:00Z")
    assert pd.Timestamp("2000-07-03T20:00:00Z") in stamps
    assert set(stamps.hour) == {20, 21}


def test_no_bar_contradicts_itself_and_time_only_goes_forward(market: dict[str, pd.DataFrame]) -> None:
    for bars in market.values():
        assert np.isfinite(bars.to_numpy()).all()
        assert (bars["high"] >= bars[["open", "close", "low"]].max(axis="columns")).all()
        assert (bars["low"] <= bars[["open", "close"]].min(axis="columns")).all()
        assert (np.diff(bars.index.asi8) > 0).all()


def test_a_stock_and_the_benchmark_have_the_same_sessions(market: dict[str, pd.DataFrame]) -> None:
    stock = market["IBM"].index
    index = market[market_data.BENCHMARK].loc[stock[0] : stock[-1]].index
    assert stock.equals(index)


def test_the_directory_reads_back_to_the_same_bars(market: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    paths = write_directory({symbol: market[symbol] for symbol in ("FB", "SP500")}, tmp_path / "market")
    assert [path.name for path in paths] == ["FB.csv", "SP500.csv"]
    for path in paths:
        text = pd.read_csv(path, dtype={"timestamp": str})
        assert list(text.columns) == ["timestamp", *COLUMNS]
        assert text["timestamp"].str.fullmatch(r"\d{4}-\d\d-\d\dT2[01]:00:00Z").all()
        again = text.set_index(pd.DatetimeIndex(text.pop("timestamp")))
        assert (again.to_numpy() == market[path.stem].to_numpy()).all()
        assert (again.index == market[path.stem].index).all()


def test_a_missing_extra_is_said_in_one_line_that_names_it() -> None:
    with pytest.raises(MarketDataMissing, match=r"signal-refinery\[demo\]") as missing:
        market_data._read("a_package_that_is_not_there", "stocks.csv.gz")
    assert "\n" not in str(missing.value)


def test_a_package_without_the_file_is_said_in_one_line() -> None:
    with pytest.raises(MarketDataMissing, match=r"without _data/none\.csv"):
        market_data._read("bokeh_sampledata", "_data/none.csv")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"High": [10.0, 10.0]}, "1 inconsistent bars, the first of 2001-03-02"),
        ({"Low": [0.0, 9.0]}, "1 inconsistent bars, the first of 2001-03-01"),
        ({"Open": [np.nan, 11.0]}, "1 inconsistent bars, the first of 2001-03-01"),
        ({"Date": ["2001-03-02", "2001-03-01"]}, "not in the order"),
        ({"Date": ["2001-03-01", "2001-03-01"]}, "not in the order"),
    ],
)
def test_bars_that_no_market_made_are_refused(change: dict[str, list[object]], reason: str) -> None:
    table = {
        "Date": ["2001-03-01", "2001-03-02"],
        "Open": [10.0, 11.0],
        "High": [11.0, 12.0],
        "Low": [9.0, 10.0],
        "Close": [10.0, 11.0],
        "Adj Close": [5.0, 5.5],
        "Volume": [100, 200],
    }
    assert market_data._bars(pd.DataFrame(table))["close"].to_list() == [5.0, 5.5]
    with pytest.raises(MarketDataMissing, match=reason):
        market_data._bars(pd.DataFrame(table | change))
