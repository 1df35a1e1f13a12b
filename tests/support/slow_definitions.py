"""Every feature once more, as plainly as pandas can say it: one signal at a time, no array tricks, no shared code.

The bars given are those that had closed by the signal's time. Features with too short a history are neutral.
"""

from __future__ import annotations

import math
from datetime import timedelta

import pandas as pd


def average_true_range(bars: pd.DataFrame) -> float:
    """Mean true range of the last 14 bars; the first bar there is has no close before it."""
    before = bars["close"].shift(1)
    three = pd.concat([bars["high"] - bars["low"], (bars["high"] - before).abs(), (bars["low"] - before).abs()], axis=1)
    return three.max(axis=1).tail(14).mean()


def trend(bars: pd.DataFrame, lookbacks: tuple[int, ...] = (5, 10, 20, 50, 200)) -> dict[str, float]:
    close, high, low = bars["close"], bars["high"], bars["low"]
    features, unit = {}, average_true_range(bars)
    for n in lookbacks:
        average = close.rolling(n).mean()
        enough = len(bars) >= n
        features[f"price_vs_ma{n}"] = (close.iloc[-1] - average.iloc[-1]) / average.iloc[-1] if enough else 0.0
        features[f"ma{n}_slope"] = 0.0
        if len(bars) >= max(n + 5, 14) and unit > 0:
            features[f"ma{n}_slope"] = (average.iloc[-1] - average.iloc[-6]) / 5 / unit
    features["price_vs_ma_fast_slow"] = 0.0
    if len(bars) >= 50:
        features["price_vs_ma_fast_slow"] = close.tail(10).mean() / close.tail(50).mean() - 1
    features["trend_strength"] = 0.0
    if len(bars) >= 14 and close.tail(14).max() > close.tail(14).min():
        line = pd.Series(range(14), index=close.tail(14).index, dtype=float)
        features["trend_strength"] = close.tail(14).corr(line) ** 2
    features["higher_highs"] = (high.tail(10).diff() > 0).sum() / 9 if len(bars) >= 10 else 0.0
    features["lower_lows"] = (low.tail(10).diff() < 0).sum() / 9 if len(bars) >= 10 else 0.0
    return features


def momentum(bars: pd.DataFrame, lookbacks: tuple[int, ...] = (5, 10, 20, 50)) -> dict[str, float]:
    close = bars["close"]
    features = {f"roc_{n}": close.pct_change(n).iloc[-1] if len(bars) > n else 0.0 for n in lookbacks}
    rsi = 50.0
    if len(bars) >= 15:
        moves = close.diff().tail(14)
        gain, loss = moves[moves > 0].sum() / 14, -moves[moves < 0].sum() / 14
        if loss > 0:
            rsi = 100 - 100 / (1 + gain / loss)
        elif gain > 0:
            rsi = 100.0
    features["rsi_14"] = rsi / 100
    features["rsi_deviation"] = (rsi - 50) / 50
    features["momentum_divergence"] = 0.0
    if len(bars) >= 28:
        price = close.iloc[-1] - close.iloc[-14]
        rate = close.pct_change(14)
        turn = rate.iloc[-1] - rate.iloc[-14]
        if price > 0 > turn or price < 0 < turn:
            features["momentum_divergence"] = turn
    features["acceleration"] = close.pct_change(10).diff(10).iloc[-1] if len(bars) >= 21 else 0.0
    return features


def volatility(bars: pd.DataFrame, window: int = 20) -> dict[str, float]:
    close, spans = bars["close"], bars["high"] - bars["low"]
    rolling = close.pct_change().rolling(window).std()
    features = {"atr_ratio": average_true_range(bars) / close.iloc[-1] if len(bars) >= 14 else 0.0}
    features["volatility_percentile"] = 0.5
    if len(bars) >= max(252, window + 1):
        year = rolling.tail(252).dropna()
        features["volatility_percentile"] = (year < rolling.iloc[-1] * (1 - 1e-9)).mean()
    features["volatility_trend"] = 0.0
    if len(bars) >= 2 * window and rolling.iloc[-window] > 0:
        features["volatility_trend"] = rolling.iloc[-1] / rolling.iloc[-window] - 1
    features["range_ratio"] = 1.0
    if len(bars) >= window and spans.tail(window).mean() > 0:
        features["range_ratio"] = spans.iloc[-1] / spans.tail(window).mean()
    features["gap_size"] = (bars["open"].iloc[-1] - close.iloc[-2]) / close.iloc[-2] if len(bars) >= 2 else 0.0
    features["intraday_volatility"] = spans.iloc[-1] / close.iloc[-1] if len(bars) else 0.0
    return features


def market(bars: pd.DataFrame, benchmark: pd.DataFrame | None, window: int = 20) -> dict[str, float]:
    close = (bars if benchmark is None else benchmark)["close"]
    moves = close.pct_change()
    bars_given = len(close)

    def clipped(value: float, size: float) -> float:
        return max(-1.0, min(1.0, value / size)) if size > 0 else 0.0

    features = {"market_trend": 0.0, "market_breadth": 0.5, "volatility_regime": 0.5, "rally_strength": 0.0}
    features |= {"drawdown_depth": 0.0, "days_from_high": 0.0}
    if bars_given >= 50:
        average = close.tail(50).mean()
        features["market_trend"] = clipped(close.iloc[-1] - average, average * moves.tail(50).std() * math.sqrt(50))
    if bars_given >= window:
        features["market_breadth"] = (moves.tail(window) > 0).sum() / window
        rally = close.iloc[-1] / close.iloc[-window] - 1
        features["rally_strength"] = clipped(rally, moves.tail(window).std() * math.sqrt(window))
    if bars_given >= 2 * window:
        before = moves.iloc[-2 * window : -window].std()
        features["volatility_regime"] = min(1.0, moves.tail(window).std() / before / 2) if before > 0 else 0.5
    if bars_given:
        features["drawdown_depth"] = close.iloc[-1] / close.max() - 1
        year = close.tail(252)
        features["days_from_high"] = (len(year) - 1 - year.tolist().index(year.max())) / len(year)
    features["correlation_regime"] = correlation(bars, benchmark, window)
    return features


def correlation(bars: pd.DataFrame, benchmark: pd.DataFrame | None, window: int) -> float:
    if benchmark is None:
        return 0.5
    reach = 4 * window + 1
    both = pd.concat([bars["close"].tail(reach), benchmark["close"].tail(reach)], axis=1, join="inner")
    both = both.tail(window + 1)
    if len(both) < window or (both.nunique() < 2).any():
        return 0.5
    moves = both.pct_change().dropna()
    return moves.iloc[:, 0].corr(moves.iloc[:, 1])


def metadata(signal: dict[str, object]) -> dict[str, float]:
    def known(name: str) -> float:
        value = signal.get(name)
        return 0.0 if value is None else float(value)  # type: ignore[arg-type]

    def text(name: str) -> str:
        return str(signal.get(name) or "").lower()

    entry, target, stop = known("entry_price"), known("target_price"), known("stop_price")
    reward = abs(target - entry) / abs(entry - stop) if min(entry, target, stop) > 0 and entry != stop else 0.0
    return {
        **{f"{kind}_score": known(f"{kind}_score") / 10 for kind in ("technical", "news", "combined")},
        **{f"conviction_{level}": float(text("conviction") == level) for level in ("high", "medium", "low")},
        "risk_reward_ratio": reward,
        "position_size": known("position_size_pct"),
        **{f"is_{kind}": float(text("asset_class") == kind) for kind in ("equity", "crypto")},
        **{f"is_{kind}": float(kind in text("signal_type")) for kind in ("breakout", "momentum")},
    }


def news(items: pd.DataFrame, when: pd.Timestamp, hours: int = 48) -> dict[str, float]:
    """`items` has the columns published (UTC), sentiment, relevance."""
    seen = items[(items["published"] <= when) & (items["published"] > when - timedelta(hours=hours))]

    def mean(rows: pd.DataFrame, weight: pd.Series) -> float:
        return (rows["sentiment"] * weight).sum() / weight.sum() if weight.sum() > 0 else 0.0

    age = (when - seen["published"]) / timedelta(hours=1)
    mood = mean(seen, seen["relevance"])
    weight = seen["relevance"].sum()
    late, early = seen[age < hours / 2], seen[age >= hours / 2]
    both = late["relevance"].sum() > 0 and early["relevance"].sum() > 0
    return {
        "news_any": float(len(seen) > 0),
        "news_count": float(len(seen)),
        "news_sentiment": mood,
        "news_sentiment_recent": mean(seen, seen["relevance"] * 0.5 ** (age / 12)),
        "news_dispersion": math.sqrt((seen["relevance"] * (seen["sentiment"] - mood) ** 2).sum() / weight)
        if weight > 0
        else 0.0,
        "news_share_negative": seen.loc[seen["sentiment"] < 0, "relevance"].sum() / weight if weight > 0 else 0.0,
        "news_trend": mean(late, late["relevance"]) - mean(early, early["relevance"]) if both else 0.0,
        "news_hours_since": age.min() if len(seen) else float(hours),
    }


def extended(
    bars: pd.DataFrame,
    benchmark: pd.DataFrame | None,
    signal: dict[str, object],
    items: pd.DataFrame,
    when: pd.Timestamp,
) -> dict[str, float]:
    """All features of one signal, in the order of the EXTENDED set."""
    own = market(bars, benchmark)
    order = ["market_trend", "market_breadth", "correlation_regime", "volatility_regime", "drawdown_depth"]
    regime = {name: own[name] for name in (*order, "days_from_high", "rally_strength")}
    return trend(bars) | momentum(bars) | volatility(bars) | regime | metadata(signal) | news(items, when)
