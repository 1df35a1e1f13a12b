"""Three published trading rules that publish a `signal.created` event at the close of the bar that triggers them.

A rule reads bars up to and including the one it decides on, and nothing else: no position, no outcome, no score. Its
`technical_score` is the rule's own measure of how far its condition was exceeded, mapped to 0-10 by a fixed line; it
is not fitted to anything. Scores, levels and sizes were fixed before a single outcome was looked at.

The events carry no bars: the reader of the stream asks its own market-data source for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NotRequired, Protocol, TypedDict

import numpy as np
import pandas as pd

from trading_system.simulation.market_data import INDEXES

#: Window of the average true range that stops and targets are measured in: the Turtles' N (Faith 2003).
ATR_BARS: Final = 20
#: Share of equity lost, in percent, when a stop is hit; the position size follows from it.
RISK_PCT: Final = 1.0
#: Scores from which a signal is called HIGH or MEDIUM: thirds of the scale.
_CONVICTIONS: Final = ((20 / 3, "HIGH"), (10 / 3, "MEDIUM"), (0.0, "LOW"))


class SignalEvent(TypedDict):
    """`signal.created`, as it goes to the stream. Prices are in the units of the bars; `timestamp` is RFC 3339 UTC."""

    signal_id: str
    timestamp: str
    symbol: str
    asset_class: str
    signal_type: str
    direction: str
    conviction: str
    technical_score: float
    combined_score: float
    entry_price: float
    target_price: float
    stop_price: float
    position_size_pct: float
    #: What only the desk knows, by name.
    features: NotRequired[dict[str, float]]


class Rule(Protocol):
    """A trading rule: when it speaks, how strongly, and how its trades are bracketed.

    `strength(bars)` has one value per bar: above 0 a long signal, below 0 a short one, NaN or 0 none; its magnitude is
    at most 1. Bars too early for the rule's window give none. Row t depends on rows up to t only.
    """

    signal_type: str
    #: Distances of stop and target from the close, in ATR.
    stop_atr: float
    target_atr: float
    #: Bars after the signal's at whose last close a trade that met neither stop nor target is ended.
    hold_bars: int

    def strength(self, bars: pd.DataFrame) -> pd.Series: ...


class DonchianBreakout:
    """A close beyond the range of the previous 20 bars, when none of the previous 5 closes was beyond its own.

    Donchian's four-week rule in the form of the Turtles' System 1, with their stop of 2 N (C. Faith, "The Original
    Turtle Trading Rules", 2003). Their exit, the opposite 10-day extreme, is here a target of 4 N and a time exit.
    Full strength is a close 2 ATR beyond the range.
    """

    signal_type = "breakout"
    stop_atr = 2.0
    target_atr = 4.0
    hold_bars = 20
    channel_bars = 20
    quiet_bars = 5
    full_atr = 2.0

    def strength(self, bars: pd.DataFrame) -> pd.Series:
        above = bars["close"] - bars["high"].rolling(self.channel_bars).max().shift()
        below = bars["close"] - bars["low"].rolling(self.channel_bars).min().shift()
        beyond = above.where(above > 0, below.where(below < 0))
        spoken = beyond.notna().astype(float).rolling(self.quiet_bars, min_periods=1).max().shift(fill_value=0.0)
        return (beyond / average_true_range(bars) / self.full_atr).where(spoken == 0).clip(-1, 1)


class TimeSeriesMomentum:
    """At the first close of each month, the sign of the return over the past year.

    T. Moskowitz, Y. H. Ooi, L. H. Pedersen, "Time series momentum", Journal of Financial Economics 104 (2012): twelve
    months' look-back, one month's holding. Full strength is a return of 2 annual standard deviations, with the paper's
    volatility (exponentially weighted, centre of mass 60 days, 261 days a year). The stop and target are ours, wide
    enough to leave most trades to their month.
    """

    signal_type = "momentum"
    stop_atr = 3.0
    target_atr = 6.0
    hold_bars = 21
    lookback_bars = 252
    full_sigmas = 2.0

    def strength(self, bars: pd.DataFrame) -> pd.Series:
        past_year = bars["close"] / bars["close"].shift(self.lookback_bars) - 1
        sigma = bars["close"].pct_change().ewm(com=60).std() * np.sqrt(261)
        months = pd.Series(pd.DatetimeIndex(bars.index).month, index=bars.index)
        first_of_month = months.ne(months.shift()) & months.shift().notna()
        sharpe: pd.Series = past_year / sigma
        return (sharpe / self.full_sigmas).where(first_of_month).clip(-1, 1)


class RsiReversion:
    """A two-bar RSI that drops below 10 above the 200-bar average is bought; above 90 below the average is sold.

    L. Connors and C. Alvarez, "Short Term Trading Strategies That Work" (2008), on the first bar beyond the threshold.
    They exit at the 5-day average and use no stop; here a stop, a nearer target and five bars stand in for it, because
    an outcome in R needs a risk. Full strength is an RSI of 0 or 100.
    """

    signal_type = "mean_reversion"
    stop_atr = 2.5
    target_atr = 1.5
    hold_bars = 5
    rsi_bars = 2
    trend_bars = 200
    threshold = 10.0

    def strength(self, bars: pd.DataFrame) -> pd.Series:
        rsi = relative_strength(bars["close"], self.rsi_bars)
        trend = bars["close"] - bars["close"].rolling(self.trend_bars).mean()
        oversold = (self.threshold - rsi).where((rsi < self.threshold) & (trend > 0))
        overbought = (100 - self.threshold - rsi).where((rsi > 100 - self.threshold) & (trend < 0))
        signal = oversold.fillna(overbought) / self.threshold
        return signal.where(signal.shift().isna()).clip(-1, 1)


RULES: Final[tuple[Rule, ...]] = (DonchianBreakout(), TimeSeriesMomentum(), RsiReversion())
#: Longest holding of a trade in bars, by `signal_type`.
HOLD_BARS: Final[Mapping[str, int]] = {rule.signal_type: rule.hold_bars for rule in RULES}


def generate_signals(market: Mapping[str, pd.DataFrame], rules: tuple[Rule, ...] = RULES) -> list[SignalEvent]:
    """Every signal that `rules` give on `market` (bars by symbol), ordered by time and then `signal_id`.

    Adding later bars never changes, removes or inserts an earlier signal.
    """
    found = [event for symbol, bars in market.items() for rule in rules for event in _signals_of(rule, symbol, bars)]
    return sorted(found, key=lambda event: (event["timestamp"], event["signal_id"]))


def average_true_range(bars: pd.DataFrame, window_bars: int = ATR_BARS) -> pd.Series:
    """Wilder's average true range in price units (J. W. Wilder, 1978); NaN for the first `window_bars - 1` bars."""
    previous = bars["close"].shift()
    highest = bars["high"].where(bars["high"] > previous, previous).fillna(bars["high"])
    lowest = bars["low"].where(bars["low"] < previous, previous).fillna(bars["low"])
    return _wilder_mean(highest - lowest, window_bars)


def relative_strength(close: pd.Series, window_bars: int) -> pd.Series:
    """Wilder's RSI, 0 to 100; 50 where nothing moved; NaN for the first `window_bars` bars."""
    change = close.diff()
    gain = _wilder_mean(change.clip(lower=0), window_bars)
    move = _wilder_mean(change.abs(), window_bars)
    return (100 * gain / move).where(move > 0, 50.0).where(move.notna())


def _wilder_mean(values: pd.Series, window_bars: int) -> pd.Series:
    """Each value moves the mean by one part in `window_bars`; NaN until that many values are there."""
    return values.ewm(alpha=1 / window_bars, adjust=False, min_periods=window_bars).mean()


@dataclass(frozen=True, slots=True)
class _Bracket:
    """The levels of one trade, all fixed at the signal's close."""

    entry: float
    stop: float
    target: float

    @property
    def is_tradable(self) -> bool:
        return min(self.stop, self.target) > 0


def _signals_of(rule: Rule, symbol: str, bars: pd.DataFrame) -> list[SignalEvent]:
    strength = rule.strength(bars)
    table = pd.DataFrame({"strength": strength, "close": bars["close"], "atr": average_true_range(bars)})
    table = table[table["strength"].abs().gt(0) & table["atr"].gt(0)]
    events = []
    for at, force, close, atr in zip(table.index, table["strength"], table["close"], table["atr"], strict=True):
        side = 1.0 if force > 0 else -1.0
        bracket = _Bracket(close, close - side * rule.stop_atr * atr, close + side * rule.target_atr * atr)
        if bracket.is_tradable:
            events.append(_event(rule, symbol, at, force, bracket))
    return events


def _event(rule: Rule, symbol: str, at: pd.Timestamp, force: float, bracket: _Bracket) -> SignalEvent:
    score = round(10 * abs(force), 2)
    risk_share = abs(bracket.entry - bracket.stop) / bracket.entry
    return SignalEvent(
        signal_id=f"{symbol}-{rule.signal_type}-{at:%Y%m%d}",
        timestamp=f"{at:%Y-%m-%dT%H:%M:%SZ}",
        symbol=symbol,
        asset_class="index" if symbol in INDEXES else "equity",
        signal_type=rule.signal_type,
        direction="long" if force > 0 else "short",
        conviction=next(name for least, name in _CONVICTIONS if score >= least),
        technical_score=score,
        combined_score=score,
        entry_price=round(bracket.entry, 6),
        target_price=round(bracket.target, 6),
        stop_price=round(bracket.stop, 6),
        position_size_pct=round(min(RISK_PCT / risk_share, 100.0), 4),
    )
