"""What a walk over later bars may say, by examples and by laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.labelling.triple_barrier import Ended, Levels, TradePlan, VirtualTrade, walk
from trading_system.ml_refinement.storage.times import DAY_US

HOUR_US = DAY_US // 24
LONG = Levels(100.0, 96.0, 108.0)


def bars_of(*rows: tuple[float, float, float, float], every_us: int = DAY_US) -> Bars:
    """Open, high, low and close of bars; the first one closes at time 0, where the signals of these tests are known."""
    opened, high, low, close = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return Bars(np.arange(len(rows)) * every_us, opened, high, low, close, np.ones(len(rows)))


def quiet(price: float = 100.0) -> tuple[float, float, float, float]:
    return price, price + 1, price - 1, price


def plan(levels: Levels = LONG, *, hold_days: float = 10.0, **changes: Any) -> TradePlan:
    return TradePlan(0, levels, int(hold_days * DAY_US))._replace(**changes)


def walked(bars: Bars, of: TradePlan | None = None) -> VirtualTrade:
    return walk(bars, [of or plan()], max_gap_us=7 * DAY_US)[0]


def test_a_stop_is_minus_the_distance_and_known_at_the_close_of_its_bar() -> None:
    found = walked(bars_of(quiet(), quiet(), (99, 100, 95, 99), quiet()))
    assert found == (Ended.STOP, -1.0, 2 * DAY_US, False)


def test_a_target_is_the_distance_over_the_risk() -> None:
    assert walked(bars_of(quiet(), quiet(), (101, 110, 100, 105))) == (Ended.TARGET, 2.0, 2 * DAY_US, False)


def test_the_entry_is_the_next_open_and_the_unit_is_the_signals_own_stop_distance() -> None:
    found = walked(bars_of(quiet(), (101, 102, 100, 101), (101, 109, 101, 108)))
    assert (found.ended, found.r) == (Ended.TARGET, (108 - 101) / 4)


def test_a_bar_that_touches_both_is_stopped() -> None:
    assert walked(bars_of(quiet(), (100, 109, 95, 100))) == (Ended.STOP, -1.0, DAY_US, False)


def test_a_gap_through_a_level_fills_at_the_open_for_better_or_worse() -> None:
    assert walked(bars_of(quiet(), quiet(), (92, 93, 91, 92))).r == -2.0
    assert walked(bars_of(quiet(), quiet(), (112, 113, 111, 112))).r == 3.0


def test_a_bar_that_opens_beyond_the_target_and_falls_through_the_stop_ended_at_its_open() -> None:
    assert walked(bars_of(quiet(), quiet(), (112, 113, 90, 91))) == (Ended.TARGET, 3.0, 2 * DAY_US, False)
    assert walked(bars_of(quiet(), quiet(), (92, 113, 90, 91))) == (Ended.STOP, -2.0, 2 * DAY_US, False)


def test_time_ends_a_trade_at_the_close_of_the_first_bar_that_reaches_it() -> None:
    bars = bars_of(*[quiet()] * 4, (102, 103, 101, 102), quiet())
    assert walked(bars, plan(hold_days=3.5)) == (Ended.TIME, 0.5, 4 * DAY_US, False)
    assert walked(bars, plan(hold_days=4)) == (Ended.TIME, 0.5, 4 * DAY_US, False)


def test_a_level_that_is_met_in_the_last_bar_comes_before_time() -> None:
    bars = bars_of(*[quiet()] * 4, (102, 103, 95, 102))
    assert walked(bars, plan(hold_days=4)).ended is Ended.STOP


def test_a_holding_shorter_than_a_bar_ends_at_the_close_of_the_entry_bar() -> None:
    assert walked(bars_of(quiet(), (100, 103, 99, 102)), plan(hold_days=0.01)) == (Ended.TIME, 0.5, DAY_US, False)


def test_a_short_trade_is_the_mirror() -> None:
    short = Levels(100.0, 104.0, 92.0, is_long=False)
    assert walked(bars_of(quiet(), quiet(), (101, 104, 100, 101)), plan(short)).r == -1.0
    assert walked(bars_of(quiet(), quiet(), (99, 100, 91, 95)), plan(short)).r == 2.0
    assert walked(bars_of(quiet(), quiet(), (106, 107, 105, 106)), plan(short)).r == -1.5


def test_bars_that_end_before_the_trade_leave_it_open() -> None:
    for bars in (bars_of(quiet()), bars_of(quiet(), quiet()), bars_of(*[quiet()] * 10)):
        assert walked(bars) == (Ended.OPEN, None, None, False)


def test_a_signal_without_price_or_stop_or_with_levels_on_the_wrong_side_has_no_trade() -> None:
    bars = bars_of(*[quiet()] * 20)
    wrong = (
        Levels(None, 96.0, 108.0),
        Levels(100.0, None, 108.0),
        Levels(100.0, 100.0, 108.0),
        Levels(100.0, 101.0, 108.0),
        Levels(100.0, 96.0, 99.0),
        Levels(100.0, 96.0, 108.0, is_long=False),
    )
    assert {walked(bars, plan(levels)).ended for levels in wrong} == {Ended.NO_LEVELS}


def test_a_stop_so_close_that_r_is_absurd_is_no_stop() -> None:
    bars = bars_of(quiet(), (100, 100.5, 100, 100), (90, 91, 89, 90))
    assert walked(bars, plan(Levels(100.0, 99.999, 108.0))).ended is Ended.NO_LEVELS


def test_without_a_target_stop_and_time_end_a_trade() -> None:
    bars = bars_of(quiet(), quiet(), (140, 141, 139, 140), *[quiet(140)] * 12)
    assert walked(bars, plan(Levels(100.0, 96.0))) == (Ended.TIME, 10.0, 10 * DAY_US, False)


@pytest.mark.parametrize("opened", [96.0, 95.0, 104.0, 108.0, 130.0])
def test_an_open_beyond_a_level_or_a_whole_stop_distance_better_is_no_entry(opened: float) -> None:
    bars = bars_of(quiet(), quiet(opened), *[quiet()] * 20)
    assert walked(bars) == (Ended.NOT_FILLED, None, None, False)


@pytest.mark.parametrize("opened", [96.5, 98.0, 103.5])
def test_a_price_that_the_next_bar_does_not_trade_again_is_entered_at_its_open(opened: float) -> None:
    bars = bars_of(quiet(), *[(opened, opened + 0.1, opened - 0.1, opened)] * 20)
    assert not bars.low[1] <= 100 <= bars.high[1]
    assert walked(bars).ended is Ended.TIME


def test_a_bar_that_was_open_when_the_signal_came_is_passed_over() -> None:
    bars = bars_of(quiet(), (100, 101, 80, 100), (101, 110, 101, 108))
    assert walked(bars, plan(timestamp_us=15 * HOUR_US)) == (Ended.TARGET, 7 / 4, 2 * DAY_US, True)
    assert walked(bars, plan(timestamp_us=HOUR_US // 6)).ended is Ended.STOP


def test_a_session_says_that_the_bar_opens_later() -> None:
    bars = bars_of(quiet(), (100, 101, 80, 100), quiet())
    before_the_session = plan(timestamp_us=15 * HOUR_US, session_us=int(6.5 * HOUR_US))
    assert walked(bars, before_the_session) == (Ended.STOP, -1.0, DAY_US, False)
    within_it = before_the_session._replace(timestamp_us=20 * HOUR_US)
    assert walked(bars, within_it).passed_over


def test_a_signal_far_from_any_bar_has_none() -> None:
    bars = bars_of(*[quiet()] * 30)
    late = replace(bars, timestamp=bars.timestamp + 3 * DAY_US)
    assert walked(late).ended is Ended.NO_BARS  # the first bar closes after it
    assert walked(bars, plan(timestamp_us=40 * DAY_US)).ended is Ended.NO_BARS  # the last bar is too old
    hole = replace(bars, timestamp=np.where(np.arange(30) > 0, bars.timestamp + 30 * DAY_US, 0))
    assert walked(hole).ended is Ended.NO_BARS  # the next bar is too late
    assert walked(Bars.empty()).ended is Ended.NO_BARS


@st.composite
def markets(draw: st.DrawFn) -> tuple[Bars, TradePlan]:
    """Bars of whole prices around 1,000 and a signal among them: touches, gaps and ties are frequent."""
    count = draw(st.integers(2, 30))
    walk_of = [1000]
    rows = []
    for _ in range(count):
        opened = walk_of[-1] + draw(st.integers(-12, 12))
        close = opened + draw(st.integers(-12, 12))
        rows.append(
            (opened, max(opened, close) + draw(st.integers(0, 8)), min(opened, close) - draw(st.integers(0, 8)), close)
        )
        walk_of.append(close)
    bars = bars_of(*rows)
    at = draw(st.integers(-30, 24 * count))
    entry = draw(st.integers(980, 1020))
    side = draw(st.sampled_from((1, -1)))
    stop = entry - side * draw(st.integers(-2, 40))
    target = draw(st.none() | st.integers(-2, 60).map(lambda away: float(entry + side * away)))
    levels = Levels(float(entry), float(stop), target, is_long=side > 0)
    session = draw(st.sampled_from((0, 7 * HOUR_US)))
    return bars, TradePlan(at * HOUR_US, levels, draw(st.integers(1, 500)) * HOUR_US, session)


def scaled(bars: Bars, prices: Any) -> Bars:
    return replace(bars, **{name: prices(getattr(bars, name)) for name in ("open", "high", "low", "close")})


@given(markets(), st.sampled_from((2.0**-10, 0.5, 4.0, 1024.0)))
def test_the_unit_of_prices_changes_nothing(market: tuple[Bars, TradePlan], factor: float) -> None:
    bars, of = market
    entry, stop, target, is_long = of.levels
    levels = Levels(entry * factor, stop * factor, None if target is None else target * factor, is_long)
    assert walked(scaled(bars, lambda price: price * factor), of._replace(levels=levels)) == walked(bars, of)


@given(markets())
def test_a_mirrored_market_gives_the_mirrored_trade_the_same_r(market: tuple[Bars, TradePlan]) -> None:
    bars, of = market
    entry, stop, target, is_long = of.levels
    levels = Levels(4096 - entry, 4096 - stop, None if target is None else 4096 - target, not is_long)
    flipped = scaled(bars, lambda price: 4096 - price)
    flipped = replace(flipped, high=flipped.low, low=flipped.high)
    assert walked(flipped, of._replace(levels=levels)) == walked(bars, of)


@given(markets())
@settings(max_examples=300)
def test_no_label_needs_a_bar_that_closes_after_it_was_known_and_none_changes_it(
    market: tuple[Bars, TradePlan],
) -> None:
    bars, of = market
    found = walked(bars, of)
    for count in range(len(bars) + 1):
        early = walked(bars.first(count), of)
        if found.known_us is not None and count and bars.timestamp[count - 1] >= found.known_us:
            assert early == found
        elif found.known_us is not None:
            assert early.r is None
            assert early.ended in (Ended.OPEN, Ended.NO_BARS)
        if early.r is not None:
            assert early == found


@given(markets(), st.integers(-500, 500))
def test_prices_from_before_the_signal_change_nothing(market: tuple[Bars, TradePlan], by: int) -> None:
    bars, of = market
    before = int(bars.timestamp.searchsorted(of.timestamp_us, side="right"))
    other = scaled(bars, lambda price: np.where(np.arange(len(bars)) < before, price + by, price))
    assert walked(other, of) == walked(bars, of)


@given(markets())
def test_an_outcome_lies_where_the_rules_allow_it(market: tuple[Bars, TradePlan]) -> None:
    bars, of = market
    found = walked(bars, of)
    assert (found.r is None) == (found.known_us is None) == (found.ended not in ("stop", "target", "time"))
    if found.known_us is not None:
        assert found.known_us > of.timestamp_us
        assert found.known_us in bars.timestamp
        assert found.ended != Ended.STOP or found.r < 0
        assert found.ended != Ended.TARGET or found.r > 0
