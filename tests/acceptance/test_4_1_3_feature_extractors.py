"""Task 4.1.3: the extractors, each feature held against its definition written out once more, one frame at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.sample_ohlcv import create_sample_ohlcv, flat_ohlcv, ohlcv_of
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    MarketRegimeFeatures,
    MomentumFeatures,
    OHLCVExtractor,
    SignalMetadataFeatures,
    TrendFeatures,
    VolatilityFeatures,
)

TREND = [f"{name}" for n in (5, 10, 20, 50, 200) for name in (f"price_vs_ma{n}", f"ma{n}_slope")]
NAMES: dict[type[BaseFeatureExtractor], list[str]] = {
    TrendFeatures: [*TREND, "price_vs_ma_fast_slow", "trend_strength", "higher_highs", "lower_lows"],
    MomentumFeatures: [
        *("roc_5", "roc_10", "roc_20", "roc_50"),
        *("rsi_14", "rsi_deviation", "momentum_divergence", "acceleration"),
    ],
    VolatilityFeatures: [
        *("atr_ratio", "volatility_percentile", "volatility_trend"),
        *("range_ratio", "gap_size", "intraday_volatility"),
    ],
    MarketRegimeFeatures: [
        *("market_trend", "market_breadth", "correlation_regime", "volatility_regime"),
        *("drawdown_depth", "days_from_high", "rally_strength"),
    ],
    SignalMetadataFeatures: [
        *("technical_score", "news_score", "combined_score"),
        *("conviction_high", "conviction_medium", "conviction_low", "risk_reward_ratio", "position_size"),
        *("is_equity", "is_crypto", "is_breakout", "is_momentum"),
    ],
}
IDENTITY = {
    TrendFeatures: ("trend_features", "technical"),
    MomentumFeatures: ("momentum_features", "technical"),
    VolatilityFeatures: ("volatility_features", "technical"),
    MarketRegimeFeatures: ("market_regime", "market"),
    SignalMetadataFeatures: ("signal_metadata", "signal"),
}
OHLCV = [kind for kind in NAMES if issubclass(kind, OHLCVExtractor)]
#: What a feature says where there is too little to say.
NEUTRAL = {
    "rsi_14": 0.5,
    "volatility_percentile": 0.5,
    "range_ratio": 1.0,
    "market_breadth": 0.5,
    "correlation_regime": 0.5,
    "volatility_regime": 0.5,
}


def moves(close: np.ndarray) -> np.ndarray:
    return close[1:] / close[:-1] - 1.0


def deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1))


def atr(frame: pd.DataFrame) -> float:
    high, low, close = (frame[name].to_numpy() for name in ("high", "low", "close"))
    previous = close[-15:-1]
    tops = np.maximum(high[-14:], previous)
    return float(np.mean(tops - np.minimum(low[-14:], previous)))


def by_hand(frame: pd.DataFrame) -> dict[str, float]:
    """Every technical feature of a long history as the specification defines it, with C1, C2 and C24."""
    open_, high, low, close = (frame[name].to_numpy() for name in ("open", "high", "low", "close"))
    told: dict[str, float] = {}
    for n in (5, 10, 20, 50, 200):
        average, before = close[-n:].mean(), close[-n - 5 : -5].mean()
        told[f"price_vs_ma{n}"] = close[-1] / average - 1.0
        told[f"ma{n}_slope"] = (average - before) / (5.0 * atr(frame))
    told["price_vs_ma_fast_slow"] = close[-10:].mean() / close[-50:].mean() - 1.0
    told["trend_strength"] = np.corrcoef(np.arange(14), close[-14:])[0, 1] ** 2
    told["higher_highs"] = float(np.mean(np.diff(high[-10:]) > 0))
    told["lower_lows"] = float(np.mean(np.diff(low[-10:]) < 0))

    for n in (5, 10, 20, 50):
        told[f"roc_{n}"] = close[-1] / close[-1 - n] - 1.0
    change = np.diff(close)[-14:]
    gain, loss = change[change > 0].sum(), -change[change < 0].sum()
    told["rsi_14"] = gain / (gain + loss)
    told["rsi_deviation"] = 2.0 * told["rsi_14"] - 1.0
    price = close[-1] / close[-14] - 1.0
    momentum = (close[-1] / close[-15] - 1.0) - (close[-14] / close[-28] - 1.0)
    disagree = price * momentum < 0
    told["momentum_divergence"] = math.copysign(abs(momentum), momentum) if disagree else 0.0
    told["acceleration"] = (close[-1] / close[-11] - 1.0) - (close[-11] / close[-21] - 1.0)

    told["atr_ratio"] = atr(frame) / close[-1]
    changes = moves(close)
    volatility = np.array([deviation(changes[end - 20 : end]) for end in range(20, len(changes) + 1)])
    told["volatility_percentile"] = float(np.mean(volatility[-252:] < volatility[-1]))
    told["volatility_trend"] = volatility[-1] / volatility[-20] - 1.0
    told["range_ratio"] = (high[-1] - low[-1]) / (high - low)[-20:].mean()
    told["gap_size"] = open_[-1] / close[-2] - 1.0
    told["intraday_volatility"] = (high[-1] - low[-1]) / close[-1]
    return told


def market_by_hand(frame: pd.DataFrame, benchmark: pd.DataFrame) -> dict[str, float]:
    """Every market feature as the specification defines it, with C17 and C25."""
    close, symbol = benchmark["close"].to_numpy(), frame["close"].to_numpy()
    changes = moves(close)
    average = close[-50:].mean()
    trend = (close[-1] - average) / (average * deviation(changes[-50:]) * math.sqrt(50))
    rally = (close[-1] / close[-20] - 1.0) / (deviation(changes[-20:]) * math.sqrt(20))
    recent = close[-252:]
    return {
        "market_trend": float(np.clip(trend, -1.0, 1.0)),
        "market_breadth": float(np.mean(changes[-20:] > 0)),
        "correlation_regime": float(np.corrcoef(changes[-20:], moves(symbol)[-20:])[0, 1]),
        "volatility_regime": min(1.0, deviation(changes[-20:]) / deviation(changes[-40:-20]) / 2.0),
        "drawdown_depth": close[-1] / close.max() - 1.0,
        "days_from_high": (len(recent) - 1 - int(recent.argmax())) / len(recent),
        "rally_strength": float(np.clip(rally, -1.0, 1.0)),
    }


# -- All extractors implement base interface ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_an_extractor_says_its_name_its_category_and_its_features(kind: type[BaseFeatureExtractor]) -> None:
    extractor = kind()
    assert isinstance(extractor, BaseFeatureExtractor)
    assert (extractor.name, extractor.category) == IDENTITY[kind]
    assert extractor.feature_names == NAMES[kind]
    assert isinstance(extractor.feature_names, list)


def test_names_of_extractors_and_of_features_are_unique() -> None:
    assert len({kind().name for kind in NAMES}) == len(NAMES)
    names = [name for kind in NAMES for name in kind().feature_names]
    assert len(set(names)) == len(names)


def test_the_families_on_bars_are_ohlcv_extractors_and_the_one_on_metadata_is_not() -> None:
    assert [TrendFeatures, MomentumFeatures, VolatilityFeatures, MarketRegimeFeatures] == OHLCV
    assert not issubclass(SignalMetadataFeatures, OHLCVExtractor)
    assert issubclass(OHLCVExtractor, BaseFeatureExtractor)


@pytest.mark.parametrize("kind", [BaseFeatureExtractor, OHLCVExtractor])
def test_the_bases_are_abstract(kind: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_extracted_is_what_was_announced_as_python_floats(kind: type[BaseFeatureExtractor]) -> None:
    extractor = kind()
    data: Any = create_sample_ohlcv(300) if kind in OHLCV else {"technical_score": 7, "position_size_pct": 2}
    features = extractor.extract(data)
    assert list(features) == extractor.feature_names
    assert {type(value) for value in features.values()} == {float}
    assert extractor.validate_output(features) is True
    assert extractor.validate_output({**features, "surplus": 1.0}) is False
    assert extractor.validate_output({}) is False


class Spread(BaseFeatureExtractor):
    """As somebody writes one by the specification: three members, nothing else."""

    @property
    def name(self) -> str:
        return "spread"

    @property
    def feature_names(self) -> list[str]:
        return ["spread_pct"]

    def extract(self, data: Any) -> dict[str, float]:
        return {"spread_pct": (data["ask"] - data["bid"]) / data["ask"]}


class Turnover(OHLCVExtractor):
    """As somebody writes one on bars by the specification, with the helper of its base."""

    @property
    def name(self) -> str:
        return "turnover"

    @property
    def feature_names(self) -> list[str]:
        return ["turnover", "trades"]

    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        volume = self._safe_get(ohlcv["volume"], current_idx)
        before = self._safe_get(ohlcv["volume"], current_idx - 1, 1.0)
        trades = self._safe_get(ohlcv["trades"], current_idx) if "trades" in ohlcv else -1.0
        return {"turnover": volume / before, "trades": trades}


def test_an_extractor_of_ones_own_needs_three_members() -> None:
    spread = Spread()
    assert spread.category == "general"
    assert spread.extract({"ask": 101.0, "bid": 100.0})["spread_pct"] == pytest.approx(1 / 101)
    assert spread.validate_output({"spread_pct": 0.01})


def test_an_extractor_of_ones_own_on_bars_gets_the_frame_with_every_column() -> None:
    frame = create_sample_ohlcv(50).assign(trades=range(50))
    features = Turnover().extract(frame)
    assert features["turnover"] == frame["volume"].iloc[-1] / frame["volume"].iloc[-2]
    assert features["trades"] == 49.0


@pytest.mark.parametrize(
    ("values", "idx", "default", "expected"),
    [
        ([1, 2, 3], -1, 0.0, 3.0),
        ([1, 2, 3], 0, 0.0, 1.0),
        ([1.0, float("nan")], -1, 0.0, 0.0),
        ([1.0, float("nan")], -1, 50.0, 50.0),
        ([1.0], -2, 0.0, 0.0),
        ([1.0], 7, 9.0, 9.0),
        ([], -1, 0.0, 0.0),
    ],
)
def test_a_value_is_taken_safely(values: list[float], idx: int, default: float, expected: float) -> None:
    found = Turnover()._safe_get(pd.Series(values, dtype=float), idx, default)
    assert found == expected
    assert type(found) is float


# -- Technical features extract from OHLCV data ---------------------------------------------------------------------


def test_trend_features() -> None:
    ohlcv = pd.DataFrame(
        {
            "open": [100] * 250,
            "high": [101] * 250,
            "low": [99] * 250,
            "close": list(range(100, 350)),
            "volume": [1000] * 250,
        }
    )
    features = TrendFeatures().extract(ohlcv)
    assert "price_vs_ma20" in features
    assert features["price_vs_ma20"] > 0
    assert features["price_vs_ma20"] == pytest.approx(349 / 339.5 - 1)
    assert features["trend_strength"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_every_technical_feature_is_what_its_definition_says(seed: int) -> None:
    frame = create_sample_ohlcv(400, seed=seed)
    features: dict[str, float] = {}
    for kind in (TrendFeatures, MomentumFeatures, VolatilityFeatures):
        features |= kind().extract(frame)
    expected = by_hand(frame)
    assert features.keys() == expected.keys()
    for name, value in expected.items():
        assert features[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_momentum_features_rsi() -> None:
    closes = [100.0, *np.cumsum([1, -1, 2, -1, 1, 1, -2, 3, -1, 1, 1, -1, 2, 1]) + 100.0]
    features = MomentumFeatures().extract(ohlcv_of(closes))
    assert features["rsi_14"] == pytest.approx(13 / 19)  # 13 points up, 6 down
    assert features["rsi_deviation"] == pytest.approx(2 * 13 / 19 - 1)


@pytest.mark.parametrize(
    ("closes", "rsi"),
    [(list(range(100, 130)), 1.0), (list(range(130, 100, -1)), 0.0), ([100.0] * 30, 0.5), ([11.0, 12.0, 13.0], 0.5)],
)
def test_c1_rsi_of_a_market_that_only_rises_falls_or_stands(closes: list[float], rsi: float) -> None:
    features = MomentumFeatures().extract(ohlcv_of(closes))
    assert features["rsi_14"] == rsi
    assert features["rsi_deviation"] == pytest.approx(2 * rsi - 1)


def test_a_downtrend_is_below_its_averages_and_an_uptrend_above() -> None:
    up, down = ohlcv_of(list(range(100, 400))), ohlcv_of(list(range(400, 100, -1)))
    for n in (5, 10, 20, 50, 200):
        assert TrendFeatures().extract(up)[f"price_vs_ma{n}"] > 0 > TrendFeatures().extract(down)[f"price_vs_ma{n}"]
        assert TrendFeatures().extract(up)[f"ma{n}_slope"] > 0 > TrendFeatures().extract(down)[f"ma{n}_slope"]
    assert (TrendFeatures().extract(up)["higher_highs"], TrendFeatures().extract(up)["lower_lows"]) == (1.0, 0.0)
    assert (TrendFeatures().extract(down)["higher_highs"], TrendFeatures().extract(down)["lower_lows"]) == (0.0, 1.0)


def test_divergence_is_negative_when_price_rises_and_momentum_falls() -> None:
    slowing = [100.0 + 3 * day for day in range(30)] + [190.0 + 0.1 * day for day in range(14)]
    recovering = [200.0 - 3 * day for day in range(30)] + [110.0 - 0.1 * day for day in range(14)]
    assert MomentumFeatures().extract(ohlcv_of(slowing))["momentum_divergence"] < 0
    assert MomentumFeatures().extract(ohlcv_of(recovering))["momentum_divergence"] > 0


def test_lookbacks_are_chosen_by_place_or_name() -> None:
    trend = TrendFeatures([3, 7])
    assert trend.lookbacks == [3, 7]
    assert trend.feature_names[:4] == ["price_vs_ma3", "ma3_slope", "price_vs_ma7", "ma7_slope"]
    assert len(trend.feature_names) == 8
    frame = create_sample_ohlcv(60)
    assert trend.extract(frame)["price_vs_ma7"] == pytest.approx(
        frame["close"].iloc[-1] / frame["close"].iloc[-7:].mean() - 1
    )
    momentum = MomentumFeatures(lookbacks=[2])
    assert momentum.lookbacks == [2]
    assert momentum.feature_names == ["roc_2", "rsi_14", "rsi_deviation", "momentum_divergence", "acceleration"]
    assert TrendFeatures().lookbacks == [5, 10, 20, 50, 200]
    assert MomentumFeatures().lookbacks == [5, 10, 20, 50]
    assert isinstance(TrendFeatures().lookbacks, list)


@pytest.mark.parametrize("kind", OHLCV)
@pytest.mark.parametrize("idx", [-1, -2, -40, 260, 299])
def test_c2_a_bar_further_back_sees_nothing_that_came_after_it(kind: type[OHLCVExtractor], idx: int) -> None:
    frame = create_sample_ohlcv(300)
    end = idx + 1 if idx >= 0 else len(frame) + idx + 1
    assert kind().extract(frame, idx) == pytest.approx(kind().extract(frame.iloc[:end]), rel=1e-12, abs=1e-15)
    assert kind().extract(frame, current_idx=idx) == kind().extract(frame, idx)


# -- Market features work with benchmark data -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_market_feature_is_what_its_definition_says(seed: int) -> None:
    frame, spy = create_sample_ohlcv(400, seed=seed), create_sample_ohlcv(400, seed=seed + 50)
    features = MarketRegimeFeatures().extract(frame, benchmark_data=spy)
    assert features == pytest.approx(market_by_hand(frame, spy), rel=1e-9, abs=1e-12)
    assert MarketRegimeFeatures().extract(frame, -1, spy) == features


def test_without_a_benchmark_the_symbol_is_the_market_and_c17_its_correlation_is_neutral() -> None:
    frame = create_sample_ohlcv(400)
    features = MarketRegimeFeatures().extract(frame)
    expected = market_by_hand(frame, frame) | {"correlation_regime": 0.5}
    assert features == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_c17_a_benchmark_is_aligned_by_its_times() -> None:
    frame = create_sample_ohlcv(300)
    spy = create_sample_ohlcv(300, seed=9)
    late = pd.concat([spy, create_sample_ohlcv(30, seed=10).set_index(spy.index[-30:] + pd.Timedelta(days=30))])
    expected = MarketRegimeFeatures().extract(frame, benchmark_data=spy)
    assert MarketRegimeFeatures().extract(frame, benchmark_data=late) == pytest.approx(expected)
    shifted = MarketRegimeFeatures().extract(frame.iloc[10:], benchmark_data=spy)
    assert shifted["correlation_regime"] == pytest.approx(expected["correlation_regime"])


def test_frames_without_times_are_aligned_at_their_newest_rows() -> None:
    frame = create_sample_ohlcv(100, start=None)
    spy = create_sample_ohlcv(400, seed=9, start=None)
    features = MarketRegimeFeatures().extract(frame, benchmark_data=spy)
    assert features == pytest.approx(market_by_hand(frame, spy), rel=1e-9, abs=1e-12)
    short = MarketRegimeFeatures().extract(spy, benchmark_data=frame)
    assert short == pytest.approx(market_by_hand(spy, frame), rel=1e-9, abs=1e-12)
    before = MarketRegimeFeatures().extract(frame, -11, benchmark_data=spy)
    assert before == pytest.approx(market_by_hand(frame.iloc[:-10], spy.iloc[:-10]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dated", [True, False])
def test_one_frame_with_times_and_one_without_is_an_error_that_says_so(dated: bool) -> None:
    frame = create_sample_ohlcv(100, start="2023-01-02" if dated else None)
    spy = create_sample_ohlcv(100, seed=1, start=None if dated else "2023-01-02")
    with pytest.raises(ValueError, match=r"(?i)time"):
        MarketRegimeFeatures().extract(frame, benchmark_data=spy)


def test_c25_days_from_high_are_counted_by_position() -> None:
    closes = [100.0] * 40 + [150.0] + [100.0] * 19
    frame = ohlcv_of(closes)
    renumbered = frame.set_axis(range(500, 560))
    for told in (frame, renumbered):
        assert MarketRegimeFeatures().extract(told)["days_from_high"] == pytest.approx(19 / 60)
        assert MarketRegimeFeatures().extract(told)["drawdown_depth"] == pytest.approx(-1 / 3)


# -- Signal features handle missing values --------------------------------------------------------------------------


def test_signal_features() -> None:
    signal_data = {
        "technical_score": 8.0,
        "conviction": "HIGH",
        "entry_price": 100,
        "target_price": 110,
        "stop_price": 95,
    }
    features = SignalMetadataFeatures().extract(signal_data)
    assert features["technical_score"] == 0.8
    assert features["conviction_high"] == 1.0
    assert features["risk_reward_ratio"] == 2.0


def test_a_whole_signal_becomes_its_features() -> None:
    features = SignalMetadataFeatures().extract(
        {
            "technical_score": 7.5,
            "news_score": 4,
            "combined_score": 6.0,
            "conviction": "medium",
            "entry_price": 100.0,
            "target_price": 91.0,
            "stop_price": 103.0,
            "position_size_pct": 2.5,
            "asset_class": "Crypto",
            "signal_type": "RANGE_BREAKOUT_MOMENTUM",
        }
    )
    assert features == {
        "technical_score": 0.75,
        "news_score": 0.4,
        "combined_score": 0.6,
        "conviction_high": 0.0,
        "conviction_medium": 1.0,
        "conviction_low": 0.0,
        "risk_reward_ratio": 3.0,
        "position_size": 2.5,
        "is_equity": 0.0,
        "is_crypto": 1.0,
        "is_breakout": 1.0,
        "is_momentum": 1.0,
    }


NOTHING = dict.fromkeys(NAMES[SignalMetadataFeatures], 0.0)


def test_a_signal_that_says_nothing_is_neutral() -> None:
    assert SignalMetadataFeatures().extract({}) == NOTHING


@pytest.mark.parametrize(
    "field",
    [
        *("technical_score", "news_score", "combined_score", "conviction", "entry_price", "target_price"),
        *("stop_price", "position_size_pct", "asset_class", "signal_type"),
    ],
)
def test_c16_a_field_that_is_none_is_missing(field: str) -> None:
    assert SignalMetadataFeatures().extract({field: None}) == NOTHING


@pytest.mark.parametrize(
    "changes",
    [{"stop_price": 100}, {"stop_price": 0}, {"entry_price": -5}, {"target_price": None}, {"stop_price": None}],
)
def test_a_ratio_of_reward_to_risk_that_means_nothing_is_zero(changes: dict[str, Any]) -> None:
    signal_data = {"entry_price": 100, "target_price": 110, "stop_price": 95} | changes
    assert SignalMetadataFeatures().extract(signal_data)["risk_reward_ratio"] == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"technical_score": "strong"},
        {"technical_score": float("nan")},
        {"news_score": "n/a"},
        {"entry_price": "100 USD", "target_price": 110, "stop_price": 95},
        {"position_size_pct": "large"},
        {"conviction": 3},
        {"asset_class": 7},
    ],
)
def test_a_field_that_is_something_else_is_neutral_and_the_others_stand(wrong: dict[str, Any]) -> None:
    features = SignalMetadataFeatures().extract({"combined_score": 6.0, **wrong})
    assert features == NOTHING | {"combined_score": 0.6}


# -- All features normalized appropriately --------------------------------------------------------------------------

RANGES = {
    **dict.fromkeys(["trend_strength", "higher_highs", "lower_lows", "rsi_14", "volatility_percentile"], (0.0, 1.0)),
    **dict.fromkeys(["market_breadth", "volatility_regime", "days_from_high"], (0.0, 1.0)),
    **dict.fromkeys(["rsi_deviation", "market_trend", "correlation_regime", "rally_strength"], (-1.0, 1.0)),
    "drawdown_depth": (-1.0, 0.0),
    "atr_ratio": (0.0, 1.0),
    "intraday_volatility": (0.0, 1.0),
}


@pytest.mark.parametrize("kind", OHLCV)
def test_features_stay_in_their_range_and_ignore_the_size_of_the_price(kind: type[OHLCVExtractor]) -> None:
    for seed in range(20):
        frame = create_sample_ohlcv(300, seed=seed, drift=(seed - 10) / 1000)
        features = kind().extract(frame)
        for name, value in features.items():
            low, high = RANGES.get(name, (-10.0, 10.0))
            assert low <= value <= high, (name, value)
        prices = ["open", "high", "low", "close"]
        scaled = frame.assign(**{name: frame[name] * 1000 for name in prices})
        assert kind().extract(scaled) == pytest.approx(features, rel=1e-6, abs=1e-9)


# -- Edge cases (insufficient data) handled -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OHLCV)
def test_no_bars_at_all_are_neutral(kind: type[OHLCVExtractor]) -> None:
    features = kind().extract(create_sample_ohlcv(5).iloc[:0])
    assert features == {name: NEUTRAL.get(name, 0.0) for name in kind().feature_names}


@pytest.mark.parametrize("kind", OHLCV)
@pytest.mark.parametrize("count", [1, 2, 5, 14, 19, 30, 51, 199])
def test_a_short_history_gives_every_feature_and_every_one_is_a_number(kind: type[OHLCVExtractor], count: int) -> None:
    features = kind().extract(create_sample_ohlcv(count))
    assert list(features) == kind().feature_names
    assert all(math.isfinite(value) for value in features.values())


SHORT: list[tuple[type[OHLCVExtractor], str, int]] = [
    *((TrendFeatures, f"price_vs_ma{n}", n - 1) for n in (5, 10, 20, 50, 200)),
    (TrendFeatures, "price_vs_ma_fast_slow", 49),
    (TrendFeatures, "trend_strength", 13),
    (TrendFeatures, "higher_highs", 9),
    (TrendFeatures, "lower_lows", 9),
    *((MomentumFeatures, f"roc_{n}", n) for n in (5, 10, 20, 50)),
    (MomentumFeatures, "rsi_14", 14),
    (MomentumFeatures, "momentum_divergence", 27),
    (MomentumFeatures, "acceleration", 19),
    (VolatilityFeatures, "atr_ratio", 13),
    (VolatilityFeatures, "volatility_percentile", 251),
    (VolatilityFeatures, "volatility_trend", 39),
    (VolatilityFeatures, "range_ratio", 19),
    (VolatilityFeatures, "gap_size", 1),
    (MarketRegimeFeatures, "market_trend", 49),
    (MarketRegimeFeatures, "market_breadth", 19),
    (MarketRegimeFeatures, "volatility_regime", 39),
    (MarketRegimeFeatures, "rally_strength", 19),
]


@pytest.mark.parametrize(("kind", "name", "too_few"), SHORT)
def test_a_feature_with_too_few_bars_is_neutral(kind: type[OHLCVExtractor], name: str, too_few: int) -> None:
    assert kind().extract(create_sample_ohlcv(too_few))[name] == NEUTRAL.get(name, 0.0)


@pytest.mark.parametrize("kind", OHLCV)
def test_a_market_that_does_not_move_gives_numbers(kind: type[OHLCVExtractor]) -> None:
    features = kind().extract(flat_ohlcv(300))
    assert all(math.isfinite(value) for value in features.values())
    for name in ("price_vs_ma200", "trend_strength", "higher_highs", "roc_20", "atr_ratio", "market_trend"):
        assert features.get(name, 0.0) == 0.0


def spoiled(count: int, change: Callable[[pd.DataFrame], None]) -> pd.DataFrame:
    frame = create_sample_ohlcv(count)
    change(frame)
    return frame


BROKEN: dict[str, pd.DataFrame | None] = {
    "a row of nothing in the middle": spoiled(300, lambda frame: frame.iloc.__setitem__(150, np.nan)),
    "a last row of nothing": spoiled(300, lambda frame: frame.iloc.__setitem__(-1, np.nan)),
    "a price of zero": spoiled(300, lambda frame: frame.iloc.__setitem__((250, 3), 0.0)),
    "an infinite price": spoiled(300, lambda frame: frame.iloc.__setitem__((250, 1), np.inf)),
    "no volume": create_sample_ohlcv(300).drop(columns="volume"),
    "no close": create_sample_ohlcv(300).drop(columns="close"),
    "no frame": None,
}


@pytest.mark.parametrize("kind", OHLCV)
@pytest.mark.parametrize("case", BROKEN)
def test_bars_that_are_missing_or_broken_give_numbers_and_no_error(kind: type[OHLCVExtractor], case: str) -> None:
    features = kind().extract(BROKEN[case])  # type: ignore[arg-type]
    assert list(features) == kind().feature_names
    assert all(type(value) is float and math.isfinite(value) for value in features.values())


@pytest.mark.parametrize("kind", OHLCV)
def test_bars_without_volume_give_the_same_features_where_none_needs_it(kind: type[OHLCVExtractor]) -> None:
    frame = create_sample_ohlcv(300)
    assert kind().extract(frame.drop(columns="volume")) == kind().extract(frame)


@pytest.mark.parametrize("kind", OHLCV)
def test_extracting_leaves_the_frame_as_it_was(kind: type[OHLCVExtractor]) -> None:
    frame = create_sample_ohlcv(100)
    before = frame.copy(deep=True)
    kind().extract(frame, -5)
    pd.testing.assert_frame_equal(frame, before)
