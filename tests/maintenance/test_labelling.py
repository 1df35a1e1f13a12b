"""Labelling a store: where bars come from, what stays open, and that nothing depends on when it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.events import START, signal
from tests.support.rebuild_installation import STREAM, RebuildInstallation, csv_of, dump, rebuild_installation
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, FeatureVector
from trading_system.ml_refinement.labelling.rules import LabellingRule
from trading_system.ml_refinement.storage import OutcomeRow
from trading_system.ml_refinement.storage.times import DAY_US, utc_text
from worker.errors import TransientError
from worker.maintenance.labelling import Labelled, Labelling
from worker.maintenance.received import ReceivedSignals

DAYS = 160
SIGNALS = range(40, DAYS - 1, 3)
RULE = LabellingRule(10.0)
MINIMAL = FeatureConfig(feature_set=FeatureSet.MINIMAL)


def market(days: int = DAYS, seed: int = 3) -> dict[str, list[Any]]:
    """Daily bars from `START` on: the n-th closes n days later."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, days)))
    opened = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0, 0.004, days))
    spread = rng.uniform(1.001, 1.02, days)
    return {
        "timestamp": [(START + timedelta(days=day)).isoformat() for day in range(days)],
        "open": opened.tolist(),
        "high": (np.maximum(opened, close) * spread).tolist(),
        "low": (np.minimum(opened, close) / spread).tolist(),
        "close": close.tolist(),
        "volume": [1e5] * days,
    }


MARKET = market()


def part(first: int, last: int, of: dict[str, list[Any]] = MARKET) -> dict[str, list[Any]]:
    """The bars of these days, the last one left out."""
    return {name: column[max(first, 0) : last] for name, column in of.items()}


def at_close(day: int, *, brings: int = 0, **changes: Any) -> dict[str, Any]:
    """A signal at the close of a day, long or short in turns, with its last bars or none."""
    price = MARKET["close"][day]
    side = 1 if day % 2 else -1
    fields = {
        "timestamp": MARKET["timestamp"][day],
        "direction": "long" if side > 0 else "short",
        "entry_price": price,
        "stop_price": price * (1 - 0.04 * side),
        "target_price": price * (1 + 0.06 * side),
        "bars": part(day + 1 - brings, day + 1) if brings else None,
    }
    return signal(day, **fields | changes)


def write_file(installation: RebuildInstallation, days: int = DAYS, symbol: str = "ACME") -> None:
    (installation.directory / "market" / f"{symbol}.csv").write_text(csv_of(part(0, days)))


def label(installation: RebuildInstallation, rule: LabellingRule = RULE, **options: Any) -> Labelled:
    labelling = Labelling(
        store=installation.store,
        received=ReceivedSignals(installation.archive, STREAM),
        market_data=installation.market,
        rule=rule,
        max_gap_us=7 * DAY_US,
    )
    return labelling.run(**options)


def labels(installation: RebuildInstallation) -> dict[str, tuple[Any, ...]]:
    """What is stored of each signal, but for when it was labelled."""
    return {row[0]: row[1:5] for row in dump(installation.store, "virtual_outcomes")}


def receive(installation: RebuildInstallation, events: Sequence[dict[str, Any]]) -> None:
    installation.receive(events, MINIMAL)


@pytest.fixture
def by_file(installation: RebuildInstallation) -> RebuildInstallation:
    """Signals without bars, and a file that has them."""
    write_file(installation)
    receive(installation, [at_close(day) for day in SIGNALS])
    return installation


def test_every_signal_is_labelled_or_open_and_counted(by_file: RebuildInstallation) -> None:
    found = label(by_file)
    stored = labels(by_file)
    assert found.ended.total() == len(stored)
    assert found.ended.total() + found.open == len(SIGNALS)
    assert min(found.ended["stop"], found.ended["target"], found.ended["time"]) > 3
    assert 0 < found.open < 6
    assert sum(r is not None for r, *_ in stored.values()) == found.with_r
    ended = {one: np.sign(np.array([r for r, how, *_ in stored.values() if how == one])) for one in ("stop", "target")}
    assert (ended["stop"] < 0).all()
    assert (ended["target"] > 0).all()


def test_a_second_labelling_finds_everything_known_and_changes_nothing(by_file: RebuildInstallation) -> None:
    first = label(by_file)
    before = dump(by_file.store, "virtual_outcomes")
    again = label(by_file)
    assert (again.ended.total(), again.known, again.open) == (0, first.ended.total(), first.open)
    assert dump(by_file.store, "virtual_outcomes") == before


def test_later_bars_end_what_is_open_and_touch_nothing_else(installation: RebuildInstallation) -> None:
    write_file(installation, 100)
    receive(installation, [at_close(day) for day in SIGNALS if day < 100])
    first = label(installation)
    before = dump(installation.store, "virtual_outcomes")
    assert first.open
    write_file(installation)
    assert label(installation).open == 0
    after = dump(installation.store, "virtual_outcomes")
    assert len(after) == len(before) + first.open
    assert set(before) <= set(after)


def test_bars_of_later_signals_say_the_same_as_a_file(installation: RebuildInstallation) -> None:
    receive(installation, [at_close(day, brings=15) for day in SIGNALS])
    found = label(installation)
    by_events = labels(installation)
    assert len(by_events) > 30
    assert found.no_bars == 0
    write_file(installation)
    label(installation, again=True)
    by_files = labels(installation)
    assert {name: by_files[name] for name in by_events} == by_events
    assert len(by_files) >= len(by_events)


def test_signals_without_bars_of_a_symbol_without_a_file_have_none(by_file: RebuildInstallation) -> None:
    (by_file.directory / "market" / "ACME.csv").rename(by_file.directory / "market" / "OTHER.csv")
    found = label(by_file)
    assert (found.no_bars, found.open, labels(by_file)) == (len(SIGNALS), 0, {})


def test_it_does_not_matter_when_labelling_was_asked_for(installation: RebuildInstallation, tmp_path: Path) -> None:
    events = [at_close(day, brings=12) for day in SIGNALS]
    receive(installation, events)
    label(installation)
    with rebuild_installation(tmp_path / "other") as other:
        for event in events:
            receive(other, [event])
            label(other)
        assert labels(other) == labels(installation)
        assert len(labels(other)) > 30


PRICES = ("open", "high", "low", "close")
STRANGERS = {
    "no bar in common": part(90, 98),
    "adjusted otherwise": {n: [2 * one for one in c] if n in PRICES else c for n, c in part(60, 98).items()},
    "another interval": {name: column[::-2][::-1] for name, column in part(60, 98).items()},
}


@pytest.mark.parametrize("how", STRANGERS)
def test_pieces_that_do_not_fit_together_are_no_series(installation: RebuildInstallation, how: str) -> None:
    far = {"stop_price": 1.0, "target_price": 1e6, "direction": "long"}
    receive(installation, [at_close(80, brings=30, **far), at_close(97, bars=STRANGERS[how], **far)])
    assert label(installation, dry_run=True).open == 2
    receive(installation, [at_close(91, brings=25, **far)])  # the missing piece, where it was one that was missing
    ended = label(installation).ended
    assert ended == {"time": 1}
    assert labels(installation).keys() == {"s-80"}


def test_what_cannot_be_traded_is_settled_without_an_r(installation: RebuildInstallation) -> None:
    write_file(installation)
    price = MARKET["open"][51]
    events = [
        at_close(50, entry_price=None),
        at_close(53, stop_price=None),
        at_close(56, stop_price=MARKET["close"][56] * 1.1, direction="long"),
        at_close(59, entry_price=price * 3, stop_price=price * 2.9, target_price=price * 4, direction="long"),
    ]
    receive(installation, events)
    found = label(installation)
    assert found.ended == {"no_levels": 3, "not_filled": 1}
    assert labels(installation)["s-50"] == (None, "no_levels", None, RULE.version("breakout", "equity"))
    assert label(installation).known == 4


def test_another_rule_labels_again_and_drops_what_is_open_under_it(by_file: RebuildInstallation) -> None:
    label(by_file, LabellingRule(0.5))
    before = labels(by_file)
    longer = LabellingRule(0.5, {"breakout": 30.0})
    found = label(by_file, longer)
    stored = labels(by_file)
    assert found.known == 0
    assert len(stored) == found.ended.total()
    assert found.open == len(before.keys() - stored.keys()) > 0
    assert {row[3] for row in stored.values()} == {longer.version("breakout", "equity")}
    assert label(by_file, LabellingRule(0.5, {"momentum": 30.0})).known == 0
    assert labels(by_file) == before
    assert label(by_file, LabellingRule(0.5, {"momentum": 50.0})).ended.total() == 0


def test_again_walks_what_is_known_over_corrected_bars(by_file: RebuildInstallation) -> None:
    label(by_file)
    before = labels(by_file)
    corrected = part(0, DAYS) | {"low": [low * 0.9 for low in MARKET["low"]]}
    (by_file.directory / "market" / "ACME.csv").write_text(csv_of(corrected))
    assert label(by_file).known == len(before)
    assert {name: labels(by_file)[name] for name in before} == before
    label(by_file, again=True)
    longs = {f"s-{day}" for day in SIGNALS if day % 2} & labels(by_file).keys()
    assert {labels(by_file)[name][1] for name in longs} == {"stop"}


def test_a_dry_run_counts_the_same_and_stores_nothing(by_file: RebuildInstallation) -> None:
    told = label(by_file, dry_run=True)
    assert labels(by_file) == {}
    assert told == label(by_file)


def test_signals_whose_event_is_gone_are_counted_by_why(by_file: RebuildInstallation) -> None:
    by_file.store.store_feature_vector(FeatureVector("by-hand", MARKET["timestamp"][60], {"x": 1.0}), symbol="ACME")
    labelling = Labelling(
        store=by_file.store,
        received=ReceivedSignals(None, STREAM),
        market_data=by_file.market,
        rule=RULE,
        max_gap_us=7 * DAY_US,
    )
    assert labelling.run().not_received == {"no_archived_event": len(SIGNALS), "no_event": 1}
    assert label(by_file).not_received == {"no_event": 1}


def test_signals_with_an_outcome_are_walked_too_and_their_vectors_keep_their_targets(
    by_file: RebuildInstallation,
) -> None:
    closed = OutcomeRow("s-40", 0, utc_text(START + timedelta(days=45)), 0.77)
    by_file.store.outcomes.record([closed])
    before = dump(by_file.store, "feature_vectors")
    label(by_file)
    assert "s-40" in labels(by_file)
    assert dump(by_file.store, "feature_vectors") == before
    assert by_file.store.counts().labels_total == 1
    both = RULE.both(by_file.store)
    assert both.reported_r.tolist() == [0.77]
    assert both.virtual_r.tolist() == [labels(by_file)["s-40"][0]]


def test_labelling_since_a_time_leaves_older_signals(by_file: RebuildInstallation) -> None:
    label(by_file, since=utc_text(START + timedelta(days=100)))
    assert min(int(name[2:]) for name in labels(by_file)) == min(day for day in SIGNALS if day >= 100)


def test_a_directory_that_is_gone_is_waited_for(by_file: RebuildInstallation) -> None:
    (by_file.directory / "market" / "ACME.csv").unlink()
    (by_file.directory / "market").rmdir()
    with pytest.raises(TransientError):
        label(by_file)
    assert labels(by_file) == {}
