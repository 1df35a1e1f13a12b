"""The rules against series small enough to reckon by hand, and the law that none of them looks ahead."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from trading_system.simulation.market_data import load_stocks
from trading_system.simulation.signal_generator import (
    RULES,
    DonchianBreakout,
    RsiReversion,
    Rule,
    TimeSeriesMomentum,
    average_true_range,
    generate_signals,
    relative_strength,
)


def daily(closes: list[float], *, spread: float = 1.0, start: str = "2001-01-02T21:00:00Z") -> pd.DataFrame:
    """Bars that open and close at the same price, one a day, each `spread` high on both sides."""
    close = pd.Series(closes, index=pd.date_range(start, periods=len(closes), freq="D"), dtype="float64")
    frame = pd.DataFrame({"open": close, "high": close + spread, "low": close - spread, "close": close})
    return frame.assign(volume=1000.0)


def spoken(rule: Rule, bars: pd.DataFrame) -> dict[int, float]:
    """Positions of the bars at which the rule speaks, with its strength."""
    strength = rule.strength(bars).to_list()
    return {row: round(value, 9) for row, value in enumerate(strength) if not math.isnan(value) and value != 0}


@pytest.fixture(scope="module")
def apple() -> pd.DataFrame:
    """Sixteen months with a fall of 52 % overnight in them, and eleven sessions cut out."""
    bars = load_stocks()["AAPL"].iloc[:335]
    return pd.concat([bars.iloc[:270], bars.iloc[281:]])


def test_the_average_true_range_counts_gaps() -> None:
    bars = daily([10.0, 10.0, 20.0, 12.0])
    # True ranges 2, 2, 21 - 10 = 11, 20 - 11 = 9; each mean is half the last one and half the new value.
    assert average_true_range(bars, 2).to_list()[1:] == [2.0, 6.5, 7.75]
    assert math.isnan(average_true_range(bars, 2).iloc[0])


@pytest.mark.parametrize(
    ("closes", "rsi"),
    [
        ([1, 2, 3], 100.0),
        ([3, 2, 1], 0.0),
        ([2, 2, 2], 50.0),
        ([9, 8, 9], 50.0),
        ([10, 12, 11], 200 / 3),  # the rise of 2 counts half by now, the fall of 1 the other half: 1 of 1.5
    ],
)
def test_relative_strength_by_hand(closes: list[int], rsi: float) -> None:
    assert relative_strength(pd.Series(closes, dtype="float64"), 2).iloc[-1] == pytest.approx(rsi)


def test_a_breakout_speaks_on_the_first_close_beyond_twenty_bars_and_then_keeps_quiet() -> None:
    bars = daily([100.0] * 25 + [103.0, 105.0, 107.0])
    # Bar 25: the range ends at 101; true range 4, so ATR = 2 * 0.95 + 4 * 0.05 = 2.1; strength 2 / 2.1 / 2.
    assert spoken(DonchianBreakout(), bars) == {25: round(1 / 2.1, 9)}


def test_a_breakout_downwards_is_short_and_a_touch_is_none() -> None:
    assert spoken(DonchianBreakout(), daily([100.0] * 25 + [97.0])) == {25: round(-1 / 2.1, 9)}
    assert spoken(DonchianBreakout(), daily([100.0] * 25 + [101.0])) == {}


def test_a_breakout_waits_for_twenty_bars_of_history() -> None:
    assert spoken(DonchianBreakout(), daily([100.0] * 19 + [110.0])) == {}
    assert list(spoken(DonchianBreakout(), daily([100.0] * 20 + [110.0]))) == [20]


def test_momentum_speaks_at_the_first_close_of_a_month_once_there_is_a_year() -> None:
    bars = daily([100.0 + row for row in range(340)])
    first_days = [row for row, stamp in enumerate(bars.index) if stamp.day == 1 and row >= 252]
    strengths = spoken(TimeSeriesMomentum(), bars)
    assert list(strengths) == first_days
    assert set(strengths.values()) == {1.0}  # a steady climb is far more than two standard deviations of its noise


def test_momentum_after_a_year_of_falling_is_short() -> None:
    assert set(spoken(TimeSeriesMomentum(), daily([700.0 - row for row in range(340)])).values()) == {-1.0}


def test_reversion_buys_the_first_drop_of_a_rising_market_only() -> None:
    rising = [100.0 + row for row in range(210)]
    bars = daily([*rising, 303.0, 297.0, 291.0])
    # RSI(2) after gains of 1 and then losses of 6: gains halve from 1, moves are half old and half new.
    # Bar 210: gain .5, move 3.5 -> 14.3. Bar 211: gain .25, move 4.75 -> 5.26. Bar 212: already below 10.
    assert spoken(RsiReversion(), bars) == {211: round((10 - 25 / 4.75) / 10, 9)}


def test_reversion_sells_the_rise_of_a_falling_market() -> None:
    falling = [1000.0 - row for row in range(210)]
    bars = daily([*falling, 797.0, 803.0, 809.0])
    assert spoken(RsiReversion(), bars) == {211: round(-(10 - 25 / 4.75) / 10, 9)}


def test_reversion_leaves_a_drop_below_the_average_alone() -> None:
    falling = [1000.0 - row for row in range(210)]
    assert spoken(RsiReversion(), daily([*falling, 780.0, 760.0])) == {}


def test_an_event_carries_levels_in_atr_and_a_size_that_risks_one_percent() -> None:
    events = generate_signals({"IBM": daily([100.0] * 25 + [103.0])}, (DonchianBreakout(),))
    assert events == [
        {
            "signal_id": "IBM-breakout-20010127",
            "timestamp": "2001-01-27T21:00:00Z",
            "symbol": "IBM",
            "asset_class": "equity",
            "signal_type": "breakout",
            "direction": "long",
            "conviction": "MEDIUM",
            "technical_score": 4.76,
            "combined_score": 4.76,
            "entry_price": 103.0,
            "target_price": 111.4,  # 103 + 4 * 2.1
            "stop_price": 98.8,  # 103 - 2 * 2.1
            "position_size_pct": 24.5238,  # 1 % / (4.2 / 103)
        }
    ]


def test_an_index_says_that_it_is_one_and_a_short_has_its_stop_above() -> None:
    (event,) = generate_signals({"NASDAQ": daily([100.0] * 25 + [97.0])}, (DonchianBreakout(),))
    assert (event["asset_class"], event["direction"]) == ("index", "short")
    assert event["target_price"] < event["entry_price"] < event["stop_price"]


def test_a_target_below_nothing_is_no_signal() -> None:
    assert generate_signals({"IBM": daily([4.0] * 25 + [1.5])}, (DonchianBreakout(),)) == []


def test_no_rule_looks_ahead_at_any_bar(apple: pd.DataFrame) -> None:
    everything = generate_signals({"AAPL": apple})
    assert len({event["signal_type"] for event in everything}) == len(RULES)
    for end in range(1, len(apple) + 1):
        now = f"{apple.index[end - 1]:%Y-%m-%dT%H:%M:%SZ}"
        known = [event for event in everything if event["timestamp"] <= now]
        assert generate_signals({"AAPL": apple.iloc[:end]}) == known


def test_every_signal_of_the_real_market_keeps_the_contract() -> None:
    events = generate_signals(load_stocks())
    assert 800 <= len(events) <= 2000
    assert len({event["signal_id"] for event in events}) == len(events)
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    for event in events:
        below, above = sorted((event["stop_price"], event["target_price"]))
        assert 0 < below < event["entry_price"] < above
        assert (event["stop_price"] == below) == (event["direction"] == "long")
        assert 0 <= event["technical_score"] <= 10
        assert 0 < event["position_size_pct"] <= 100


def test_the_same_market_gives_the_same_signals() -> None:
    assert generate_signals(load_stocks()) == generate_signals(load_stocks())
