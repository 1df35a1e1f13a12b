"""The laws every extractor keeps, as functions to call in one's own tests.

    from trading_system.ml_refinement.features.checks import check_extractor

    def test_my_extractor_keeps_the_laws():
        check_extractor(MyExtractor())

Each `check_*` raises `CheckFailed`, an AssertionError that names the feature and the signal, or lets the extractor's
own exception through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np

from trading_system.ml_refinement.bar_limits import PRICES
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor, OHLCVExtractor
from trading_system.ml_refinement.features.extractors.batch import FeatureRequest, SignalBatch
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import FloatArray

BARS = 300
AGREEMENT = 1e-12


class CheckFailed(AssertionError):
    """An extractor breaks a law."""


def check_extractor(extractor: BaseFeatureExtractor) -> None:
    """Run every check of this module."""
    for check in CHECKS:
        check(extractor)


def check_definitions(extractor: BaseFeatureExtractor) -> None:
    """Definitions are sound: distinct names, a meaning, neutral within the range, lookback not below `min_bars`."""
    names = [definition.name for definition in extractor.column_definitions]
    _hold(bool(extractor.name), "the extractor has no name")
    _hold(bool(names) and len(set(names)) == len(names), f"{extractor.name}: names are missing or given twice")
    _hold(names == list(extractor.feature_names), f"{extractor.name}: feature_names are not those of the definitions")
    for one in extractor.column_definitions:
        _hold(bool(one.name and one.meaning and one.category), f"{one.name}: has no meaning or no category")
        _hold(one.low <= one.neutral <= one.high, f"{one.name}: neutral {one.neutral} is outside its range")
        covered = one.lookback_bars is None or one.lookback_bars >= one.min_bars
        _hold(covered, f"{one.name}: needs {one.min_bars} bars and looks at {one.lookback_bars}")


def check_no_lookahead(extractor: BaseFeatureExtractor) -> None:
    """At every cut of a series with a gap: what came later, whatever it was, changes nothing."""
    whole = _signals(sample_bars(1), sample_bars(2, gap_after=90))
    known = [_cut(request) for request in whole]
    other = [_with_other_future(request) for request in whole]
    expected = _evaluate(extractor, known)
    _agree(extractor, _evaluate(extractor, whole), expected, "with later bars and news present")
    _agree(extractor, _evaluate(extractor, other), expected, "with another future")


def check_alone_equals_batch(extractor: BaseFeatureExtractor) -> None:
    """A row alone is the row in any batch, whatever the company, its lengths and its order."""
    requests = _mixed()
    expected = np.concatenate([_evaluate(extractor, [request]) for request in requests])
    _agree(extractor, _evaluate(extractor, requests), expected, "in a batch")
    order = np.random.default_rng(3).permutation(len(requests))
    shuffled = _evaluate(extractor, [requests[at] for at in order])
    _agree(extractor, shuffled, expected[order], "in a batch of another order")
    few = _evaluate(extractor, requests[-3:])
    _agree(extractor, few, expected[-3:], "in a batch of three")


def check_live_equals_backfilled(extractor: BaseFeatureExtractor) -> None:
    """The declared lookback suffices: the bars an event carries give what the whole history gives."""
    history = _signals(sample_bars(4), sample_bars(5))[150:]
    finite = [at for at, one in enumerate(extractor.column_definitions) if one.lookback_bars is not None]
    reach = max((one.lookback_bars or 0 for one in extractor.column_definitions), default=0)
    live = [_cut(request, reach) for request in history]
    names = [extractor.column_definitions[at].name for at in finite]
    values, expected = _evaluate(extractor, live)[:, finite], _evaluate(extractor, history)[:, finite]
    _agree_columns(names, values, expected, f"from the newest {reach} bars alone")


def check_input_untouched(extractor: BaseFeatureExtractor) -> None:
    """Bars are read, not written to: an extractor that writes raises here, as the arrays are read-only."""
    requests = _mixed()
    before = [_copies(request.bars) for request in requests]
    for request in requests:
        for bars in filter(None, (request.bars, request.benchmark)):
            for field in fields(bars):
                getattr(bars, field.name).flags.writeable = False
    _evaluate(extractor, requests)
    for request, copies in zip(requests, before, strict=True):
        same = all(np.array_equal(a, b) for a, b in zip(_copies(request.bars), copies, strict=True))
        _hold(same, f"{extractor.name}: changed the bars of {request.signal_id}")


def check_short_histories(extractor: BaseFeatureExtractor) -> None:
    """Histories of 0, 1, 2, ... bars give finite values, and the neutral ones below `min_bars`."""
    longest = max(one.min_bars for one in extractor.column_definitions) + 2
    bars, benchmark = sample_bars(6, longest), sample_bars(7, longest)
    requests = [
        FeatureRequest(f"of {count} bars", int(bars.timestamp[-1]), SignalMetadata(), bars.first(count), market)
        for count in range(longest + 1)
        for market in (None, benchmark.first(count))
    ]
    values = _evaluate(extractor, requests)
    _in_range(extractor, values, requests)
    for at, one in enumerate(extractor.column_definitions):
        short = values[[len(request.bars) < one.min_bars for request in requests], at]
        _hold(bool((short == one.neutral).all()), f"{one.name}: not neutral with fewer than {one.min_bars} bars")


def check_in_range(extractor: BaseFeatureExtractor) -> None:
    """Finite and in the declared range: constant prices, no volume, prices of 1e-6 and 1e6, splits, gaps."""
    for name, bars in strange_bars().items():
        requests = [request._replace(signal_id=f"{name} {request.signal_id}") for request in _signals(bars, bars)[::7]]
        _in_range(extractor, _evaluate(extractor, requests), requests)
        alone = [request._replace(benchmark=None) for request in requests]
        _in_range(extractor, _evaluate(extractor, alone), alone)


def check_plain_output(extractor: BaseFeatureExtractor) -> None:
    """`extract` of an OHLCV extractor gives Python floats under the declared names, equal to the batch's row."""
    if not isinstance(extractor, OHLCVExtractor):
        return
    bars = sample_bars(8)
    for at in (0, 20, len(bars) - 1):
        features = extractor.extract(bars.to_frame(), at)
        _hold(extractor.validate_output(features), f"{extractor.name}: extract gave other names, or no finite values")
        _hold(all(type(value) is float for value in features.values()), f"{extractor.name}: not plain floats")
        request = FeatureRequest(f"at bar {at}", int(bars.timestamp[at]), SignalMetadata(), bars)
        row = np.array([[features[name] for name in extractor.feature_names]])
        _agree(extractor, row, _evaluate(extractor, [request]), "by extract")


CHECKS: tuple[Callable[[BaseFeatureExtractor], None], ...] = (
    check_definitions,
    check_no_lookahead,
    check_alone_equals_batch,
    check_live_equals_backfilled,
    check_input_untouched,
    check_short_histories,
    check_in_range,
    check_plain_output,
)


def sample_bars(seed: int, count: int = BARS, *, gap_after: int = 120) -> Bars:
    """A random walk of daily bars with a gap of 30 days; the same for the same arguments."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0.0003, 0.015, count)))
    open_ = np.concatenate(([100.0], close[:-1]))[:count] * np.exp(random.normal(0, 0.004, count))
    high = np.maximum(open_, close) * np.exp(np.abs(random.normal(0, 0.006, count)))
    low = np.minimum(open_, close) * np.exp(-np.abs(random.normal(0, 0.006, count)))
    day = np.arange(count) + np.where(np.arange(count) > gap_after, 30, 0) + 10_000
    return Bars(day * DAY_US, open_, high, low, close, random.integers(1, 10**6, count).astype(np.float64))


def strange_bars() -> dict[str, Bars]:
    """Series that are allowed and unusual."""
    usual = sample_bars(9)
    flat = np.full(len(usual), 100.0)
    growth = np.power(1.01, np.arange(len(usual)))
    halves = np.where(np.arange(len(usual)) < 200, 1.0, 0.5)
    tenths = np.where(np.arange(len(usual)) < 250, 1.0, 0.1)
    halted = np.where(np.arange(len(usual)) < 150, usual.close, usual.close[150])
    return {
        "constant": Bars(usual.timestamp, flat, flat, flat, flat, flat),
        "halted": Bars(usual.timestamp, halted, halted, halted, halted, usual.volume),
        "steady growth": _scaled(replace(usual, open=flat, high=flat, low=flat, close=flat), growth),
        "no volume": replace(usual, volume=np.zeros(len(usual))),
        "tiny": _scaled(usual, np.full(len(usual), 1e-8)),
        "least": _scaled(usual, np.full(len(usual), 1e-18)),
        "huge": _scaled(usual, np.full(len(usual), 1e4)),
        "split in two": _scaled(usual, halves),
        "split in ten": _scaled(usual, tenths),
        "gap": usual,
    }


def _scaled(bars: Bars, factor: FloatArray) -> Bars:
    return replace(bars, **{name: getattr(bars, name) * factor for name in PRICES})


def _signals(bars: Bars, benchmark: Bars) -> list[FeatureRequest]:
    """A signal at the close of every bar, all with the whole series and all the news."""
    random = np.random.default_rng(len(bars))
    news = tuple(
        NewsItem(int(us) + int(late), float(mood), float(weight))
        for us, late, mood, weight in zip(
            bars.timestamp[::2],
            random.integers(0, 2 * DAY_US, len(bars)),
            random.uniform(-1, 1, len(bars)),
            random.uniform(0, 1, len(bars)),
            strict=False,
        )
    )
    return [
        FeatureRequest(f"at bar {at}", int(us), _metadata(at), bars, benchmark, news, provided=_provided(at))
        for at, us in enumerate(bars.timestamp)
    ]


def _metadata(at: int) -> SignalMetadata:
    if at % 5 == 0:
        return SignalMetadata()
    levels, kinds = ("HIGH", "medium", "Low", None), ("breakout", "momentum", "mean_reversion")
    return SignalMetadata(
        technical_score=float(at % 11),
        combined_score=10.0 - at % 11,
        conviction=levels[at % 4],
        entry_price=100.0,
        target_price=100.0 + at % 7,
        stop_price=100.0 - at % 3,
        position_size_pct=float(at % 6),
        asset_class=("equity", "crypto")[at % 2],
        signal_type=kinds[at % 3],
    )


def _provided(at: int) -> dict[str, float] | None:
    told = (("desk_flow", at / 7 - 20), ("desk_carry", 1e-9 * at), ("another", 1.0))
    return dict(told[: at % 4]) if at % 5 else None


def _mixed() -> list[FeatureRequest]:
    """Signals of all lengths, with and without a benchmark, on shared and on other calendars."""
    bars, other, benchmark = sample_bars(10), sample_bars(11, gap_after=40), sample_bars(12)
    requests = [*_signals(bars, benchmark)[::13], *_signals(other, benchmark)[5::17]]
    lengths = (0, 1, 14, 20, 21, 50, 252, 300)
    requests += [_signals(other, benchmark)[-1]._replace(bars=other.first(n), benchmark=None) for n in lengths]
    return [request._replace(signal_id=f"{at}: {request.signal_id}") for at, request in enumerate(requests)]


def _cut(request: FeatureRequest, n_bars: int | None = None) -> FeatureRequest:
    """Only what was known at the signal's time, and of the bars the newest `n_bars`."""
    bars = request.bars.as_of(request.timestamp_us)
    benchmark = None if request.benchmark is None else request.benchmark.as_of(request.timestamp_us)
    if n_bars is not None:
        bars, benchmark = bars.tail(n_bars), None if benchmark is None else benchmark.tail(n_bars)
    news = tuple(item for item in request.news if item.published_us <= request.timestamp_us)
    return request._replace(bars=bars, benchmark=benchmark, news=news)


def _with_other_future(request: FeatureRequest) -> FeatureRequest:
    def changed(bars: Bars | None) -> Bars | None:
        return None if bars is None else _scaled(bars, np.where(bars.timestamp > request.timestamp_us, 7.0, 1.0))

    news = [replace(item, sentiment=1.0) if item.published_us > request.timestamp_us else item for item in request.news]
    return request._replace(
        bars=changed(request.bars) or request.bars, benchmark=changed(request.benchmark), news=tuple(news)
    )


def _copies(bars: Bars) -> list[np.ndarray]:
    return [getattr(bars, field.name).copy() for field in fields(bars)]


def _evaluate(extractor: BaseFeatureExtractor, requests: Sequence[FeatureRequest]) -> FloatArray:
    values = extractor.evaluate(SignalBatch(requests))
    for row, at in np.argwhere(~np.isfinite(values)).tolist():
        raise CheckFailed(f"{extractor.feature_names[at]}: {values[row, at]} for {requests[row].signal_id}")
    return values


def _in_range(extractor: BaseFeatureExtractor, values: FloatArray, requests: Sequence[FeatureRequest]) -> None:
    for at, one in enumerate(extractor.column_definitions):
        for row in np.flatnonzero((values[:, at] < one.low) | (values[:, at] > one.high)).tolist():
            away = max(one.low - values[row, at], values[row, at] - one.high)
            rounding = AGREEMENT * max(abs(values[row, at]), 1.0)
            where = f"for {requests[row].signal_id}"
            _hold(bool(away <= rounding), f"{one.name}: {values[row, at]} is outside [{one.low}, {one.high}] {where}")


def _agree(extractor: BaseFeatureExtractor, values: FloatArray, expected: FloatArray, how: str) -> None:
    _agree_columns(extractor.feature_names, values, expected, how)


def _agree_columns(names: Sequence[str], values: FloatArray, expected: FloatArray, how: str) -> None:
    apart = np.abs(values - expected) > AGREEMENT * np.maximum(np.abs(values), np.abs(expected))
    for row, at in np.argwhere(apart).tolist():
        raise CheckFailed(f"{names[at]}: {values[row, at]} {how}, {expected[row, at]} before (signal {row})")


def _hold(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)
