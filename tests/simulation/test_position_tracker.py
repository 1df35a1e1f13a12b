"""Trades on a handful of bars with outcomes written out by hand, and the laws that hold for every trade."""

from __future__ import annotations

import pandas as pd
import pytest

from trading_system.simulation.market_data import load_stocks
from trading_system.simulation.position_tracker import OutcomeEvent, close_trade, track_positions
from trading_system.simulation.signal_generator import HOLD_BARS, SignalEvent, generate_signals
from trading_system.simulation.timeline import Moment, arrange, timeline_of

SIGNAL_AT = "2001-01-02T21:00:00Z"


def signal(direction: str = "long", *, at: str = SIGNAL_AT, signal_id: str = "s1") -> SignalEvent:
    """Entry 100 with 10 of risk and 20 of hope."""
    side = 1 if direction == "long" else -1
    return SignalEvent(
        signal_id=signal_id,
        timestamp=at,
        symbol="IBM",
        asset_class="equity",
        signal_type="breakout",
        direction=direction,
        conviction="LOW",
        technical_score=1.0,
        combined_score=1.0,
        entry_price=100.0,
        target_price=100.0 + 20 * side,
        stop_price=100.0 - 10 * side,
        position_size_pct=10.0,
    )


def bars(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Open, high, low, close; the first row is the signal's own bar."""
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"], dtype="float64")
    frame.index = pd.date_range(SIGNAL_AT, periods=len(rows), freq="D", name="timestamp")
    return frame.assign(volume=1.0)


#: The signal's own bar runs through every level: it must not matter.
OWN = (100.0, 200.0, 1.0, 100.0)
QUIET = (100.0, 101.0, 99.0, 100.0)


def outcome_of(trade: SignalEvent, *rows: tuple[float, float, float, float], cost_bps: float = 0.0) -> OutcomeEvent:
    outcome = close_trade(trade, bars(OWN, *rows), 3, cost_bps)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("case", "direction", "rows", "day", "r", "pct", "reason"),
    [
        ("stop", "long", [QUIET, (99, 99, 90, 95)], "04", -1.0, -10.0, "stop"),
        ("target", "long", [QUIET, (105, 120, 104, 110)], "04", 2.0, 20.0, "target"),
        ("both in one bar: the stop", "long", [(100, 125, 85, 110)], "03", -1.0, -10.0, "stop"),
        ("gap through the stop fills at the open", "long", [QUIET, (84, 95, 80, 94)], "04", -1.6, -16.0, "stop"),
        ("gap through the target fills at the open", "long", [QUIET, (123, 124, 80, 90)], "04", 2.3, 23.0, "target"),
        ("the entry bar counts", "long", [(100, 101, 90, 99)], "03", -1.0, -10.0, "stop"),
        ("time", "long", [QUIET, QUIET, (100, 106, 98, 105)], "05", 0.5, 5.0, "time"),
        ("a bad open costs more than 1 R", "long", [(105, 106, 89, 90)], "03", -1.5, -1500 / 105, "stop"),
        ("an open beyond the stop is sold at once", "long", [(88, 130, 80, 120)], "03", 0.0, 0.0, "stop"),
        ("short stop", "short", [QUIET, (105, 110, 104, 105)], "04", -1.0, -10.0, "stop"),
        ("short target", "short", [QUIET, (90, 91, 80, 85)], "04", 2.0, 20.0, "target"),
        ("short, both in one bar", "short", [(100, 115, 75, 90)], "03", -1.0, -10.0, "stop"),
        ("short, gap through the stop", "short", [QUIET, (117, 118, 90, 95)], "04", -1.7, -17.0, "stop"),
        ("short, gap through the target", "short", [QUIET, (78, 112, 77, 111)], "04", 2.2, 22.0, "target"),
        ("short, time", "short", [QUIET, QUIET, (100, 106, 95, 96)], "05", 0.4, 4.0, "time"),
    ],
)
def test_a_trade_by_hand(
    case: str,
    direction: str,
    rows: list[tuple[float, float, float, float]],
    day: str,
    r: float,
    pct: float,
    reason: str,
) -> None:
    assert outcome_of(signal(direction), *rows) == {
        "signal_id": "s1",
        "closed_at": f"2001-01-{day}T21:00:00Z",
        "r_multiple": pytest.approx(r),
        "return_pct": pytest.approx(pct, abs=1e-6),
        "exit_reason": reason,
    }


def test_costs_are_taken_from_the_entry_whatever_the_result() -> None:
    outcome = outcome_of(signal(), QUIET, (105, 120, 104, 110), cost_bps=10)
    assert outcome["r_multiple"] == pytest.approx(1.99)  # 20 - 100 * 0.001, in units of 10
    assert outcome["return_pct"] == pytest.approx(19.9)


def test_a_trade_that_the_data_leave_open_has_no_outcome() -> None:
    assert close_trade(signal(), bars(OWN, QUIET, QUIET), 3) is None
    assert close_trade(signal(), bars(OWN), 3) is None


def test_outcomes_come_in_the_order_in_which_trades_ended() -> None:
    late = signal(signal_id="a-long-one")
    soon = signal("short", signal_id="b-stopped-at-once")
    market = {"IBM": bars(OWN, (100, 112, 99, 110), QUIET, QUIET)}
    outcomes = track_positions([late, soon], market, hold_bars={"breakout": 3})
    assert [outcome["signal_id"] for outcome in outcomes] == ["b-stopped-at-once", "a-long-one"]


def test_a_moment_holds_what_became_known_at_one_close() -> None:
    ended = OutcomeEvent(
        signal_id="s1", closed_at="2001-01-03T21:00:00Z", r_multiple=1.0, return_pct=1.0, exit_reason="time"
    )
    first, second = signal(), signal(at="2001-01-03T21:00:00Z", signal_id="s2")
    assert arrange([second, first], [ended]) == (
        Moment("2001-01-02T21:00:00Z", (), (first,)),
        Moment("2001-01-03T21:00:00Z", (ended,), (second,)),
    )


@pytest.fixture(scope="module")
def market() -> dict[str, pd.DataFrame]:
    return load_stocks()


@pytest.fixture(scope="module")
def signals(market: dict[str, pd.DataFrame]) -> list[SignalEvent]:
    return generate_signals(market)


def test_an_outcome_depends_on_no_bar_after_its_close_and_is_unknown_before(
    market: dict[str, pd.DataFrame], signals: list[SignalEvent]
) -> None:
    for trade in signals[::7]:
        frame, hold = market[trade["symbol"]], HOLD_BARS[trade["signal_type"]]
        outcome = close_trade(trade, frame, hold)
        if outcome is None:
            continue
        end = frame.index.get_loc(pd.Timestamp(outcome["closed_at"]))
        assert close_trade(trade, frame.iloc[: end + 1], hold) == outcome
        assert close_trade(trade, frame.iloc[:end], hold) is None


def test_a_short_trade_is_the_long_one_in_the_mirror(
    market: dict[str, pd.DataFrame], signals: list[SignalEvent]
) -> None:
    for trade in signals[::7]:
        frame, hold = market[trade["symbol"]], HOLD_BARS[trade["signal_type"]]
        twice = 2 * trade["entry_price"]
        mirror = pd.DataFrame({"open": twice - frame["open"], "high": twice - frame["low"]})
        mirror = mirror.assign(low=twice - frame["high"], close=twice - frame["close"])
        other = trade.copy()
        other["direction"] = "short" if trade["direction"] == "long" else "long"
        other["stop_price"], other["target_price"] = twice - trade["stop_price"], twice - trade["target_price"]
        here, there = close_trade(trade, frame, hold, 0.0), close_trade(other, mirror, hold, 0.0)
        if here is None or there is None:
            assert here == there
            continue
        assert (there["closed_at"], there["exit_reason"]) == (here["closed_at"], here["exit_reason"])
        assert there["r_multiple"] == pytest.approx(here["r_multiple"], abs=1e-5)


def test_every_trade_ends_after_its_signal_and_within_its_holding(
    market: dict[str, pd.DataFrame], signals: list[SignalEvent]
) -> None:
    by_id = {trade["signal_id"]: trade for trade in signals}
    outcomes = track_positions(signals, market)
    assert len({outcome["signal_id"] for outcome in outcomes}) == len(outcomes) > 0.98 * len(signals)
    for outcome in outcomes:
        trade = by_id[outcome["signal_id"]]
        stamps = market[trade["symbol"]].index
        held = stamps.get_loc(pd.Timestamp(outcome["closed_at"])) - stamps.get_loc(pd.Timestamp(trade["timestamp"]))
        assert 1 <= held <= HOLD_BARS[trade["signal_type"]]


def test_the_timeline_goes_forward_only_and_holds_every_event_once(
    market: dict[str, pd.DataFrame], signals: list[SignalEvent]
) -> None:
    timeline = timeline_of(market)
    instants = [moment.instant for moment in timeline]
    assert instants == sorted(set(instants))
    assert [event for moment in timeline for event in moment.signals] == signals
    seen: set[str] = set()
    for moment in timeline:
        assert all(outcome["signal_id"] in seen for outcome in moment.outcomes)
        seen.update(event["signal_id"] for event in moment.signals)
