"""What is wrong with a notebook's data never raises: it is neutral, and the vector says that it is incomplete."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from trading_system.ml_refinement import FeatureConfig, FeatureSet, FeatureVector
from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.extractors import (
    MarketRegimeFeatures,
    NewsFeatures,
    NewsItem,
    OHLCVExtractor,
    SignalMetadataFeatures,
)
from trading_system.ml_refinement.features.extractors.base_extractor import ExtractedFeatures
from trading_system.ml_refinement.features.extractors.inputs import NUMBER_RANGES
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.events.models import json_schema

PIPELINE = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
REGISTRY = FeatureRegistry()
ON_BARS = [one for one in REGISTRY.get_all() if isinstance(one, OHLCVExtractor)]
NEUTRAL = {one.name: one.neutral for one in PIPELINE.definitions()}
SIGNAL = {"technical_score": 7.5, "conviction": "HIGH", "entry_price": 100.0, "target_price": 110.0, "stop_price": 95.0}
COLUMNS = ("open", "high", "low", "close", "volume")
CLEAN = sample_bars(1).to_frame()
MARKET = sample_bars(2).to_frame()


def expect_usable(features: dict[str, float], names: list[str]) -> None:
    assert list(features) == names
    assert all(type(value) is float and math.isfinite(value) for value in features.values())


def with_cell(column: str, back: int, value: Any) -> pd.DataFrame:
    """The clean frame with one value changed; `back` 1 is the newest bar."""
    spoilt = CLEAN.astype(object) if not isinstance(value, float) else CLEAN.copy()
    spoilt.iloc[-back, list(CLEAN.columns).index(column)] = value
    return spoilt


DIRTY: dict[str, tuple[Any, str]] = {
    "None": (None, "no frame of bars but None"),
    "a list": ([1, 2], "no frame of bars but a list"),
    "an empty frame": (CLEAN.iloc[:0], "a frame without bars"),
    "a frame of nothing": (pd.DataFrame(), "a frame without bars"),
    "a NaN row": (CLEAN.drop(CLEAN.index[-3]).reindex(CLEAN.index), "not_a_number: open of bar 297"),
    "an infinite value": (with_cell("close", 2, math.inf), "not_a_number: close of bar 298"),
    "a zero price": (with_cell("low", 1, 0.0), "price_not_positive: low of bar 299"),
    "a negative price": (with_cell("close", 1, -1.0), "price_not_positive: close of bar 299"),
    "no volume": (CLEAN.drop(columns="volume"), "missing_column: volume, from bar 0"),
    "no high": (CLEAN.drop(columns="high"), "missing_column: high, from bar 0"),
    "text in a cell": (with_cell("close", 1, "x"), "not_a_number: close of bar 299"),
    "columns of text": (CLEAN.astype(str), "not_a_number: open of bar 0"),
    "newest first": (CLEAN.iloc[::-1], "unsorted: timestamp of bar 1"),
    "a bar twice": (pd.concat([CLEAN, CLEAN.iloc[-1:]]), "unsorted: timestamp of bar 300"),
    "no time at a bar": (CLEAN.reset_index().assign(timestamp=pd.NaT), "bad_timestamp: a time is missing"),
    "a column twice": (pd.concat([CLEAN, CLEAN[["close"]]], axis=1), "not_a_number: close of bar 0"),
    "a close above high": (with_cell("close", 1, 1e6), "not_enclosed: close is not between low and high, bar 299"),
}


@pytest.mark.parametrize("name", DIRTY)
def test_bars_that_cannot_be_used_are_neutral_and_said(name: str) -> None:
    frame, why = DIRTY[name]
    sound = PIPELINE.extract_features("s", CLEAN, SIGNAL, MARKET)
    features = PIPELINE.extract_features("s", frame, SIGNAL, MARKET)
    expect_usable(features, PIPELINE.get_feature_names())
    assert why in features.incomplete
    assert features["technical_score"] == sound["technical_score"] == 0.75
    if "close above" not in name:
        changed = {one for one in features if features[one] != sound[one]}
        assert changed or name == "no volume"
        assert all(features[one] == NEUTRAL[one] for one in changed)


@pytest.mark.parametrize("name", DIRTY)
def test_single_extractors_say_it_too(name: str) -> None:
    frame, why = DIRTY[name]
    for extractor in ON_BARS:
        features = extractor.extract(frame)
        expect_usable(features, extractor.feature_names)
        assert isinstance(features, ExtractedFeatures)
        assert (why in features.incomplete) or "not_enclosed" in why


def test_only_what_would_be_made_from_a_bad_value_is_neutral() -> None:
    sound = PIPELINE.extract_features("s", CLEAN, SIGNAL)
    features = PIPELINE.extract_features("s", with_cell("close", 30, math.nan), SIGNAL)
    neutral = {one.name for one in PIPELINE.definitions() if features[one.name] != sound[one.name]}
    assert {"price_vs_ma50", "ma50_slope", "roc_50", "volatility_trend", "drawdown_depth", "market_trend"} <= neutral
    for kept in ("price_vs_ma20", "ma5_slope", "rsi_14", "gap_size", "range_ratio", "technical_score", "higher_highs"):
        assert features[kept] == sound[kept] != NEUTRAL[kept]


def test_a_bad_value_in_the_benchmark_leaves_the_symbols_own_features() -> None:
    spoilt = MARKET.copy()
    spoilt.iloc[-1, spoilt.columns.get_loc("close")] = math.nan
    sound, features = (PIPELINE.extract_features("s", CLEAN, SIGNAL, market) for market in (MARKET, spoilt))
    assert features.incomplete == "benchmark: not_a_number: close of bar 299"
    for one in PIPELINE.definitions():
        assert features[one.name] == (one.neutral if one.category == "market" else sound[one.name])


@pytest.mark.parametrize("frame", [CLEAN, CLEAN.astype(object), CLEAN.convert_dtypes(), CLEAN.assign(vwap="?")])
def test_clean_data_gives_what_the_batch_gives_to_the_bit(frame: pd.DataFrame) -> None:
    features = PIPELINE.extract_features("s", frame, SIGNAL, MARKET)
    assert features.incomplete == ""
    assert features == PIPELINE.extract_features("s", CLEAN, SIGNAL, MARKET)
    assert features != NEUTRAL


def test_what_came_after_the_signal_is_not_held_against_it() -> None:
    spoilt = with_cell("close", 5, math.nan)
    before, after = (spoilt.index[-6].to_pydatetime(), spoilt.index[-5].to_pydatetime())
    assert PIPELINE.extract_features("s", spoilt, SIGNAL, as_of=before).incomplete == ""
    assert PIPELINE.extract_features("s", spoilt, SIGNAL, as_of=after).incomplete != ""
    assert MarketRegimeFeatures().extract(spoilt, -6).incomplete == ""
    assert MarketRegimeFeatures().extract(spoilt, -5).incomplete != ""


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ({**SIGNAL, "technical_score": "eight"}, "technical_score is 'eight', not a number"),
        ({**SIGNAL, "technical_score": 11}, "technical_score is 11, not from 0 to 10"),
        ({**SIGNAL, "stop_price": 0}, "stop_price is 0, not from 1e-18 to 1e+12"),
        ({**SIGNAL, "entry_price": math.nan}, "entry_price is nan, not a number"),
        ({**SIGNAL, "conviction": 3}, "conviction is 3, not text"),
        ({**SIGNAL, "target_price": 10**400}, "target_price is 10"),
        (None, "no mapping but None"),
        ("HIGH", "no mapping but 'HIGH'"),
    ],
)
def test_a_signal_that_cannot_be_used_is_neutral_and_said(signal: Any, why: str) -> None:
    whole = PIPELINE.extract_features("s", CLEAN, signal)
    alone = SignalMetadataFeatures().extract(signal)
    expect_usable(whole, PIPELINE.get_feature_names())
    expect_usable(alone, SignalMetadataFeatures().feature_names)
    assert f"metadata: {why}" in whole.incomplete
    assert f"metadata: {why}" in alone.incomplete
    assert alone.items() <= whole.items()


def test_a_field_that_is_missing_is_no_fault() -> None:
    row = pd.Series({"technical_score": 7.5})
    with_none = {**SIGNAL, "news_score": None, "own_key": object()}
    for signal in ({}, {"technical_score": 7.5}, {"own_key": 1}, row, with_none):
        assert PIPELINE.extract_features("s", CLEAN, signal).incomplete == ""
        assert SignalMetadataFeatures().extract(signal).incomplete == ""


def test_a_fault_counts_where_a_chosen_feature_reads_what_has_it() -> None:
    def incomplete(names: list[str]) -> str:
        config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=names)
        return FeaturePipeline(config).extract_features("s", None, "?", None, news=[None]).incomplete

    assert incomplete(["rsi_14"]) == "bars: no frame of bars but None"
    assert incomplete(["is_equity"]) == "metadata: no mapping but '?'"
    assert incomplete(["news_any"]).startswith("news: item 0 is None")


@pytest.mark.parametrize(
    "news",
    [[None], [{"sentiment": 1}], [NewsItem(10**30, 0.5)], [NewsItem("now", 0.5)], [NewsItem(0, 2.0)], "text", 5],  # type: ignore[arg-type]
)
def test_news_that_cannot_be_used_is_neutral_and_said(news: Any) -> None:
    now = int(Bars.from_frame(CLEAN).timestamp[-1])
    features = PIPELINE.extract_features("s", CLEAN, SIGNAL, news=news)
    expect_usable(features, PIPELINE.get_feature_names())
    assert features.incomplete.startswith("news: ")
    assert NewsFeatures().extract(news, now) == {one.name: one.neutral for one in NewsFeatures().definitions}


def test_no_news_and_none_are_the_same() -> None:
    now = int(Bars.from_frame(CLEAN).timestamp[-1])
    assert NewsFeatures().extract(None, now) == NewsFeatures().extract([], now)
    assert PIPELINE.extract_features("s", CLEAN, SIGNAL, news=None).incomplete == ""


def test_news_needs_a_time_to_be_looked_at_from() -> None:
    news = [NewsItem(0, 0.5)]
    undated = CLEAN.reset_index(drop=True)
    assert "as_of says it" in PIPELINE.extract_features("s", undated, SIGNAL, news=news).incomplete
    told = PIPELINE.extract_features("s", undated, SIGNAL, news=news, as_of=datetime(1970, 1, 1, 3, tzinfo=UTC))
    assert (told.incomplete, told["news_hours_since"]) == ("", 3.0)


def undated(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index(drop=True)


def test_frames_without_times_meet_at_their_newest_rows() -> None:
    symbol, market = sample_bars(3, 100), sample_bars(4, 400)
    moved = Bars(market.timestamp[-100:], *(getattr(symbol, name) for name in COLUMNS))
    expected = MarketRegimeFeatures().extract(moved.to_frame(), benchmark_data=market.to_frame())
    assert expected["market_trend"] != 0
    frames = undated(moved.to_frame()), undated(market.to_frame())
    assert MarketRegimeFeatures().extract(frames[0], benchmark_data=frames[1]) == expected
    assert MarketRegimeFeatures().extract(frames[0].set_axis(range(900, 1000)), benchmark_data=frames[1]) == expected
    assert expected.items() <= PIPELINE.extract_features("s", frames[0], SIGNAL, frames[1]).items()
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert expected.items() <= PIPELINE.extract_features("s", frames[0], SIGNAL, frames[1], as_of=when).items()
    assert MarketRegimeFeatures().extract(frames[0], 49, frames[1]) == MarketRegimeFeatures().extract(
        moved.to_frame(), 49, market.to_frame()
    )
    now = Bars.from_frame(frames[0]), Bars.from_frame(frames[1])
    assert now[0].timestamp[-1] == now[1].timestamp[-1]


def test_one_frame_with_times_and_one_without_is_an_error_that_says_so() -> None:
    for symbol, market, words in (
        (CLEAN, undated(MARKET), "the bars have times and the benchmark have none"),
        (undated(CLEAN), MARKET, "the benchmark have times and the bars have none"),
    ):
        for ask in (
            lambda symbol=symbol, market=market: PIPELINE.extract_features("s", symbol, SIGNAL, market),
            lambda symbol=symbol, market=market: MarketRegimeFeatures().extract(symbol, benchmark_data=market),
        ):
            with pytest.raises(BarsError, match=words):
                ask()


def test_an_incomplete_vector_is_stored_as_one_and_not_trained_on(tmp_path: Path) -> None:
    with FeatureDatabase(tmp_path / "features.db") as db:
        for name, frame in (("good", CLEAN), ("bad", None)):
            features = PIPELINE.extract_features(name, frame, SIGNAL)
            vector = PIPELINE.create_feature_vector(name, features, 1.0, "2024-01-01")
            assert FeatureVector.from_dict(vector.to_dict()) == vector
            assert ("incomplete" in vector.to_dict()) is (name == "bad")
            db.store_feature_vector(vector)
        assert db.get_training_data("2024-01-01", "2024-01-01")[0].shape[0] == db.count_samples() == 1
        stored = db.get_feature_vector("bad"), db.get_feature_vector("good")
        assert [bool(one and one.incomplete) for one in stored] == [True, False]


def test_a_signals_numbers_lie_where_those_of_an_event_do() -> None:
    properties = json_schema("signal.created")["properties"]
    for name, (low, high) in NUMBER_RANGES.items():
        number = next(one for one in properties[name]["anyOf"] if one["type"] == "number")
        assert (number["minimum"], number["maximum"]) == (low, high), name
    numeric = {name for name, one in properties.items() if {"type": "null"} in one.get("anyOf", ())}
    assert numeric - set(NUMBER_RANGES) == {"conviction", "bars", "benchmark", "news", "features"}


CELLS = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e13, 1e-12, "x", "100", None, True, pd.NA, 10**400, 5 + 1j, [1.0])


@st.composite
def spoilt_frames(draw: st.DrawFn) -> Any:
    """A clean frame of any length through any of what happens to frames."""
    count = draw(st.sampled_from((0, 1, 2, 15, 60, 300)))
    frame: Any = sample_bars(draw(st.integers(0, 3)), max(count, 1)).to_frame().iloc[:count]
    changes: list[Callable[[Any], Any]] = draw(st.lists(st.sampled_from(CHANGES), max_size=3))
    for change in changes:
        frame = change(draw, frame)
    return draw(st.sampled_from((frame, frame, frame, None))) if changes else frame


def _cell(draw: st.DrawFn, frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return frame
    frame = frame.astype(object)
    frame.iloc[draw(st.integers(0, len(frame) - 1)), draw(st.integers(0, frame.shape[1] - 1))] = draw(
        st.sampled_from(CELLS)
    )
    return frame


def _of_type(draw: st.DrawFn, frame: pd.DataFrame) -> pd.DataFrame:
    try:
        return frame.astype(draw(st.sampled_from((str, object, "category"))))
    except TypeError:  # a list in a cell is in no category
        return frame


CHANGES: tuple[Callable[[Any, Any], Any], ...] = (
    _cell,
    _cell,
    lambda draw, frame: frame.drop(columns=draw(st.sampled_from(list(frame.columns))) if frame.shape[1] else []),
    lambda draw, frame: frame.iloc[draw(st.permutations(range(min(len(frame), 9))))],
    lambda draw, frame: pd.concat([frame, frame.iloc[-1:]]),
    lambda draw, frame: pd.concat([frame, frame.iloc[:, :1]], axis=1),
    _of_type,
    lambda draw, frame: (
        frame.set_axis(draw(st.permutations(("open", "a", "low", 4, "volume")))[: frame.shape[1]], axis=1)
        if frame.shape[1] <= 5
        else frame
    ),
    lambda draw, frame: frame.reset_index(drop=True),
    lambda draw, frame: frame.set_axis(np.linspace(0, 1, len(frame))),
    lambda draw, frame: frame.set_axis([draw(st.sampled_from(("yesterday", "2024-01-01")))] * len(frame)),
    lambda draw, frame: frame.set_axis(pd.period_range("2024", periods=len(frame), freq="D")),
    lambda draw, frame: frame.set_axis(pd.MultiIndex.from_product([["A"], range(len(frame))])),
)


@settings(max_examples=200, deadline=None)
@given(frame=spoilt_frames(), market=st.one_of(st.none(), spoilt_frames()))
def test_whatever_is_given_as_bars_every_extractor_answers_with_finite_floats(frame: Any, market: Any) -> None:
    for extractor in ON_BARS:
        expect_usable(extractor.extract(frame), extractor.feature_names)
    try:
        features = PIPELINE.extract_features("s", frame, SIGNAL, market)
    except BarsError as error:
        assert "have times" in str(error)  # noqa: PT017  an error is one of two ways it may end
        return
    expect_usable(features, PIPELINE.get_feature_names())
    flawless = sound(frame) and (market is None or sound(market))
    assert (features.incomplete == "") >= flawless
    assert (features.incomplete == "") <= (flawless or (sound(frame) and goes_on_after(market, frame)))
    if sound(frame):
        assert "bars: " not in features.incomplete
        clean = PIPELINE.extract_features("s", frame, SIGNAL)
        own = [one.name for one in PIPELINE.definitions() if one.category != "market"]
        assert [features[name] for name in own] == [clean[name] for name in own]


def goes_on_after(market: Any, frame: Any) -> bool:
    """Does the market have rows that came after the signal? What is wrong with those is held against nothing."""
    try:
        return bool((market.index > frame.index.max()).any())
    except TypeError:  # times beside no times
        return False


def sound(frame: Any) -> bool:
    """Would the strict constructor take these numbers?"""
    if frame is None or not len(frame):
        return False
    try:
        Bars.from_frame(frame.infer_objects() if not frame.columns.has_duplicates else frame)
    except BarsError:
        return False
    return True


VALUES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.lists(st.integers(), max_size=1)
)


@settings(max_examples=200, deadline=None)
@given(
    signal=st.one_of(VALUES, st.dictionaries(st.sampled_from((*NUMBER_RANGES, "conviction", "asset_class")), VALUES))
)
def test_whatever_a_signal_says_its_features_are_finite(signal: Any) -> None:
    features = SignalMetadataFeatures().extract(signal)
    expect_usable(features, SignalMetadataFeatures().feature_names)
    for one in SignalMetadataFeatures().definitions:
        assert one.low <= features[one.name] <= one.high


class Spread(OHLCVExtractor):
    """Written for one signal, and for sound frames alone."""

    name = "spread"

    @property
    def feature_names(self) -> list[str]:
        return ["spread"]

    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        return {"spread": ohlcv["high"].iloc[current_idx] / ohlcv["low"].iloc[current_idx] - 1}


@pytest.mark.parametrize("name", DIRTY)
def test_an_extractor_of_ones_own_is_not_held_to_what_it_cannot_know(name: str) -> None:
    registry = FeatureRegistry()
    registry.register(Spread())
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["spread", "technical_score"])
    pipeline = FeaturePipeline(config, registry)
    frame, why = DIRTY[name]
    features = pipeline.extract_features("s", frame, SIGNAL)
    expect_usable(features, ["technical_score", "spread"])
    assert why in features.incomplete
    assert features["spread"] == 0.0 or "not_enclosed" in why
    assert pipeline.extract_features("s", CLEAN, SIGNAL)["spread"] > 0


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_bars_with_whole_numbers_of_another_unit_are_refused_and_know_nothing_later(unit: str, per_second: int) -> None:
    frame = CLEAN.set_axis(CLEAN.index.as_unit("ns").asi8 // 10**9 * per_second)
    middle = CLEAN.index[-20].to_pydatetime()
    for one in (frame, frame.rename_axis("timestamp").reset_index()):
        if unit == "us" and one is not frame:
            given = PIPELINE.extract_features("s", one, SIGNAL, as_of=middle)
            assert given == PIPELINE.extract_features("s", CLEAN, SIGNAL, as_of=middle)
            continue
        for call in (
            lambda one=one: PIPELINE.extract_features("s", one, SIGNAL, as_of=middle),
            lambda one=one: PIPELINE.extract_features("s", one, SIGNAL, one),
            *(lambda one=one, extractor=extractor: extractor.extract(one, -20) for extractor in ON_BARS),
        ):
            with pytest.raises(BarsError, match=f"unit='{unit}'"):
                call()


@pytest.mark.parametrize("per_second", [1, 10**3, 10**9])
def test_news_with_whole_numbers_of_another_unit_is_said_and_not_passed_over(per_second: int) -> None:
    now = int(Bars.from_frame(CLEAN).timestamp[-1])
    features = PIPELINE.extract_features("s", CLEAN, SIGNAL, news=[NewsItem(now // 10**6 * per_second, 0.5)])
    assert "published_us of item 0" in features.incomplete
    assert "no time in microseconds" in features.incomplete
