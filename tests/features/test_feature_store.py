"""The feature store over a real database: captured as of the signal, read back point in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.feature_store import Capture, FeatureStore
from trading_system.ml_refinement.features.pipeline import SignalMetadata
from trading_system.ml_refinement.storage import FeatureDatabase, SqliteConnection
from trading_system.ml_refinement.storage.packing import feature_texts
from trading_system.ml_refinement.storage.tables import vectors

BARS = sample_bars(1)
PIPELINE = FeaturePipeline()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(tmp_path / "features.db") as database:
        yield database


@pytest.fixture
def store(db: FeatureDatabase) -> FeatureStore:
    return FeatureStore(db, PIPELINE)


def capture(at: int, **metadata: object) -> Capture:
    known = {"asset_class": "equity", "signal_type": "breakout", "technical_score": float(at % 10)} | metadata
    return Capture(FeatureRequest(f"s{at}", int(BARS.timestamp[at]), SignalMetadata(**known), BARS), "AAPL")


def closed(at: int, days: float = 3) -> datetime:
    return datetime.fromtimestamp(BARS.timestamp[at] / 1e6, UTC) + timedelta(days=days)


def test_what_is_captured_and_labelled_comes_back_to_the_bit(store: FeatureStore) -> None:
    captures = [capture(at) for at in range(290, 3, -7)]
    assert all(store.capture(captures).new)
    for one in captures[:-2]:
        at = int(one.request.signal_id[1:])
        assert store.label(f"s{at}", at / 10, closed(at)) == "applied"
    matrix = store.training_matrix()
    expected = PIPELINE.extract_batch([one.request for one in captures[-3::-1]])
    assert matrix.signal_ids == [one.request.signal_id for one in captures[-3::-1]]
    assert np.array_equal(matrix.X, expected.values)
    assert matrix.names == PIPELINE.names
    assert matrix.r.tolist() == [int(name[1:]) / 10 for name in matrix.signal_ids]
    assert (matrix.label_us - matrix.timestamp_us == 3 * 86_400_000_000).all()


def test_an_incomplete_vector_is_left_out_and_counted(store: FeatureStore) -> None:
    spoiled = BARS.close.copy()
    spoiled[99] = np.nan
    bad = capture(100)._replace(request=capture(100).request._replace(bars=replace(BARS, close=spoiled)))
    store.capture([capture(90), bad])
    for at in (90, 100):
        store.label(f"s{at}", 1.0, closed(at))
    matrix = store.training_matrix()
    assert (matrix.signal_ids, matrix.incomplete) == (["s90"], 1)


def test_an_outcome_may_come_first_and_one_from_before_the_signal_is_refused(store: FeatureStore) -> None:
    assert store.label("s50", 2.0, closed(50)) == "waiting"
    assert store.label("s60", 2.0, closed(60, days=-1)) == "waiting"
    stored = store.capture([capture(50), capture(60)])
    assert stored.labelled == ["s50"]
    assert [one.signal_id for one in stored.refused] == ["s60"]
    assert store.training_matrix().signal_ids == ["s50"]


def test_other_writers_go_on_while_vectors_are_encoded(
    store: FeatureStore, db: FeatureDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.initialize()
    wrote = []

    def encoded(*given: Any) -> list[str]:
        other = SqliteConnection(tmp_path / "features.db", busy_timeout_ms=0)
        with closing(other), other.atomic():
            wrote.append(len(given[1]))
        return feature_texts(*given)

    monkeypatch.setattr(vectors, "feature_texts", encoded)
    store.capture([capture(50), capture(60)])
    assert wrote == [2]


def test_capturing_again_changes_nothing(store: FeatureStore) -> None:
    store.capture([capture(50)])
    store.label("s50", 2.0, closed(50))
    before = store.training_frame()
    assert store.capture([capture(50, technical_score=1.0), capture(51)]).new == [False, True]
    assert store.training_frame().equals(before)


def test_selections_and_the_feature_version_hold(db: FeatureDatabase, store: FeatureStore) -> None:
    captures = [capture(100), capture(101, asset_class="crypto"), capture(102, signal_type="momentum")]
    store.capture(captures)
    other = FeatureStore(db, FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED)))
    other.capture([capture(103)])
    for at in range(100, 104):
        store.label(f"s{at}", 1.0, closed(at))
    assert store.training_matrix().signal_ids == ["s100", "s101", "s102"]
    assert store.training_matrix(asset_class="crypto").signal_ids == ["s101"]
    assert store.training_matrix(signal_type="momentum").signal_ids == ["s102"]
    assert other.training_matrix().signal_ids == ["s103"]
    day = closed(101, days=0).date().isoformat()
    assert store.training_matrix(start=day, end=day).signal_ids == ["s101"]


def test_the_frame_is_the_matrix_with_names(store: FeatureStore) -> None:
    store.capture([capture(100)])
    store.label("s100", -1.0, closed(100))
    frame = store.training_frame()
    assert list(frame.columns) == [*PIPELINE.names, "r_multiple", "timestamp", "label_time"]
    assert frame.loc["s100", "label_time"] == closed(100)
    assert frame.loc["s100", "r_multiple"] == -1.0
    assert store.training_frame(start="2100-01-01").empty


def test_definitions_are_entered_once(db: FeatureDatabase, store: FeatureStore) -> None:
    store.describe()
    store.describe()
    stored = {one.name: one for one in db.definitions.all()}
    assert set(stored) == set(PIPELINE.names)
    assert stored["rsi_14"].category == "technical"
    assert stored["gap_size"].dependencies == ("open", "close")
