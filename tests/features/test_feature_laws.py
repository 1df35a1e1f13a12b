# ruff: noqa: PD011  the values of a FeatureBatch are an array
"""The laws over every registered extractor, over a user's own, and over extractors that break them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bar_limits import PRICE_MAX, PRICE_MIN
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, FeatureRequest, checks
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    FeatureDefinition,
    MarketRegimeFeatures,
    MomentumFeatures,
    NewsFeatures,
    OHLCVExtractor,
    ProvidedFeatures,
    SignalBatch,
    SignalMetadata,
    TrendFeatures,
    VolatilityFeatures,
)

EXTRACTORS = [
    *FeatureRegistry().get_all(),
    TrendFeatures([1, 3, 33]),
    MomentumFeatures([1, 66]),
    MomentumFeatures([]),
    VolatilityFeatures(2),
    VolatilityFeatures(33),
    MarketRegimeFeatures(7),
    NewsFeatures(3),
    ProvidedFeatures(["desk_carry", "never", "desk_flow"], {"desk_flow": -3.0}),
    ProvidedFeatures(["desk_flow"]),
]


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda one: f"{one.name}-{len(one.feature_names)}")
def test_every_extractor_keeps_every_law(
    extractor: BaseFeatureExtractor, check: Callable[[BaseFeatureExtractor], None]
) -> None:
    check(extractor)


class Swing(OHLCVExtractor):
    """A user's own."""

    name = "swing"
    definitions = (FeatureDefinition("swing_5", "range of 5 closes / close", low=0, min_bars=5, lookback_bars=5),)

    def compute(self, batch: SignalBatch) -> np.ndarray:
        close = batch.bars.tail("close", 5)
        return (close.max(axis=1) - close.min(axis=1))[:, None] / close[:, -1:]


class SwingAsSpecified(OHLCVExtractor):
    """The same in the way of the specification: names and `extract`."""

    @property
    def name(self) -> str:
        return "swing_as_specified"

    @property
    def feature_names(self) -> list[str]:
        return ["plain_swing_5"]

    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        close = ohlcv["close"].iloc[: len(ohlcv) + current_idx + 1 if current_idx < 0 else current_idx + 1].tail(5)
        return {"plain_swing_5": float((close.max() - close.min()) / close.iloc[-1]) if len(close) == 5 else 0.0}


class Stops(BaseFeatureExtractor):
    """From metadata, in the way of the specification."""

    name = "stops"
    feature_names = ["has_stop"]  # noqa: RUF012

    def extract(self, signal_data: dict[str, object]) -> dict[str, float]:
        return {"has_stop": float(signal_data.get("stop_price") is not None)}


def test_a_users_own_extractor_is_registered_and_held_to_every_law() -> None:
    registry = FeatureRegistry()
    for own in (Swing(), SwingAsSpecified(), Stops()):
        checks.check_extractor(own)
        registry.register(own)
    bars = checks.sample_bars(1)
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED), registry)
    request = FeatureRequest("s", int(bars.timestamp[99]), SignalMetadata(stop_price=1.0), bars)
    row = dict(zip(pipeline.names, pipeline.extract_batch([request]).values[0], strict=True))
    assert row["swing_5"] == pytest.approx(row["plain_swing_5"], rel=1e-12)
    assert row["swing_5"] == pytest.approx(np.ptp(bars.close[95:100]) / bars.close[99])
    assert row["has_stop"] == 1.0


class LooksAhead(Swing):
    def compute(self, batch: SignalBatch) -> np.ndarray:
        return np.array([[request.bars.close[-1]] for request in batch.requests])


class LooksAtItsNeighbours(Swing):
    def compute(self, batch: SignalBatch) -> np.ndarray:
        values = super().compute(batch)
        return values - np.nansum(values) + 1


class SumsFromTheStart(Swing):
    def compute(self, batch: SignalBatch) -> np.ndarray:
        close = batch.bars.history("close")
        return np.nansum(close, axis=1, keepdims=True)


class WritesIntoBars(Swing):
    def compute(self, batch: SignalBatch) -> np.ndarray:
        values = super().compute(batch)
        for request in batch.requests:
            request.bars.close[:1] = 5.0
        return values


class WritesIntoTheBatch(Swing):
    def compute(self, batch: SignalBatch) -> np.ndarray:
        close = batch.bars.tail("close", 5)
        close[np.isnan(close)] = 0.0
        return super().compute(batch)


class NeutralWithoutAsking(Swing):
    definitions = (FeatureDefinition("swing_5", "x", low=0, lookback_bars=5),)


class OutOfRange(Swing):
    definitions = (FeatureDefinition("swing_5", "x", low=0, high=0.01, min_bars=5, lookback_bars=5),)


class NamesTwice(Swing):
    definitions = Swing.definitions * 2


class NeutralOutside(Swing):
    definitions = (FeatureDefinition("swing_5", "x", low=1, min_bars=5, lookback_bars=5),)


class NumpyOut(Swing):
    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        return {name: np.float64(value) for name, value in super().extract(ohlcv, current_idx).items()}


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (checks.check_no_lookahead, LooksAhead()),
        (checks.check_alone_equals_batch, LooksAtItsNeighbours()),
        (checks.check_live_equals_backfilled, SumsFromTheStart()),
        (checks.check_input_untouched, WritesIntoBars()),
        (checks.check_short_histories, WritesIntoTheBatch()),
        (checks.check_short_histories, NeutralWithoutAsking()),
        (checks.check_in_range, OutOfRange()),
        (checks.check_definitions, NamesTwice()),
        (checks.check_definitions, NeutralOutside()),
        (checks.check_plain_output, NumpyOut()),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_law_catches_who_breaks_it(
    check: Callable[[BaseFeatureExtractor], None], broken: BaseFeatureExtractor
) -> None:
    with pytest.raises((checks.CheckFailed, ValueError)):
        check(broken)


def bars_of(steps: list[tuple[float, float, float, float]], gaps: list[int], level: float) -> Bars:
    """Bars from relative moves: gap at the open, body, and how far high and low reach beyond."""
    gap, body, up, down = np.array(steps).T if steps else np.empty((4, 0))
    close = level * np.cumprod((1 + gap) * (1 + body))
    open_ = close / (1 + body)
    high, low = np.maximum(open_, close) * (1 + up), np.minimum(open_, close) * (1 - down)
    times = np.cumsum(np.array(gaps[: len(steps)], dtype=np.int64)) * checks.DAY_US
    prices = (np.clip(column, PRICE_MIN, PRICE_MAX) for column in (open_, high, low, close))
    return Bars(times, *prices, np.abs(body) * 1e6).check()


move = st.one_of(st.just(0.0), st.floats(-0.3, 0.3))
reach = st.one_of(st.just(0.0), st.floats(0, 0.2))


@st.composite
def some_bars(draw: st.DrawFn) -> Bars:
    """Any bars that keep the rules: flat stretches, gaps in time and price, any level of price, any length."""
    blocks = draw(st.lists(st.tuples(st.tuples(move, move, reach, reach), st.integers(1, 60)), max_size=8))
    steps = [step for step, times in blocks for _ in range(times)]
    gaps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)) * (len(steps) + 1)
    noise = np.random.default_rng(draw(st.integers(0, 9))).normal(0, 0.01, (len(steps), 1)) * draw(
        st.sampled_from([0, 1])
    )
    wobbly = [(g, float(b + w), u, d) for (g, b, u, d), (w,) in zip(steps, noise, strict=True)]
    bars = bars_of(wobbly, gaps, 1.0)
    scale = draw(st.sampled_from([1e-6, 1.0, 123.45, 1e6])) / (np.median(bars.close) if len(bars) else 1.0)
    return checks._scaled(bars, np.full(len(bars), scale))


PIPELINE = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))


@settings(max_examples=60, deadline=None)
@given(histories=st.lists(st.tuples(some_bars(), st.none() | some_bars()), min_size=1, max_size=4))
def test_any_bars_give_complete_rows_in_range_and_the_same_alone_cut_and_together(
    histories: list[tuple[Bars, Bars | None]],
) -> None:
    requests = [
        FeatureRequest(f"{at}/{us}", int(us), SignalMetadata(), bars, benchmark)
        for at, (bars, benchmark) in enumerate(histories)
        for us in (*bars.timestamp[:: max(len(bars) // 3, 1)], *bars.timestamp[-1:], 0)
    ]
    together = PIPELINE.extract_batch(requests)
    assert together.complete.all(), together.failures
    low = np.array([one.low for one in PIPELINE.definitions()])
    high = np.array([one.high for one in PIPELINE.definitions()])
    assert (together.values >= low - 1e-12).all()
    assert (together.values <= high + 1e-12).all()
    for request, row in zip(requests, together.values, strict=True):
        np.testing.assert_allclose(PIPELINE.extract_batch([request]).values[0], row, rtol=1e-12, atol=0)
        np.testing.assert_allclose(PIPELINE.extract_batch([checks._cut(request)]).values[0], row, rtol=1e-12, atol=0)


@settings(max_examples=40, deadline=None)
@given(bars=some_bars(), factor=st.sampled_from([2.0**-10, 0.5, 4.0, 2.0**10]))
def test_the_unit_of_the_price_does_not_matter(bars: Bars, factor: float) -> None:
    def row(of: Bars) -> np.ndarray:
        return PIPELINE.extract_batch([FeatureRequest("s", 2**60, SignalMetadata(), of)]).values[0]

    np.testing.assert_array_equal(row(checks._scaled(bars, np.full(len(bars), factor))), row(bars))
