"""Rebuilding: the same code as live, nothing lost, nothing invented, and nothing done where nothing has changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.support import rebuild_installation
from tests.support.events import START, bars, signal
from tests.support.rebuild_installation import NEW, OLD, STREAM, RebuildInstallation, csv_of, dump, event, features
from tests.support.store_place import store_place
from tests.support.waiting import join
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, FeatureVector
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, FeatureRequest
from trading_system.ml_refinement.features.extractors.base_extractor import OHLCVExtractor
from trading_system.ml_refinement.features.extractors.batch import SignalBatch
from trading_system.ml_refinement.storage import (
    ArchivedEvent,
    FeatureDatabase,
    OutcomeRow,
    PredictionRow,
)
from trading_system.ml_refinement.storage.tables import feature_versions
from trading_system.ml_refinement.storage.times import utc_text
from trading_system.ml_refinement.typing import FloatArray
from worker.events.decoding import decode_kept
from worker.maintenance.rebuild import Obstacle

EVENTS = [event(number) for number in range(50)]


Hook = Callable[[SignalBatch], None]


class Probe(OHLCVExtractor):
    """The last close times a factor, with a hook that is called with every batch."""

    def __init__(
        self, hook: Hook = lambda _: None, *, version: int = 1, feature: str = "last", factor: float = 1
    ) -> None:
        self._hook = hook
        self._feature = feature
        self._factor = factor
        self.version = version

    @property
    def name(self) -> str:
        return "probe"

    @property
    def feature_names(self) -> list[str]:
        return [self._feature]

    def compute(self, batch: SignalBatch) -> FloatArray:
        self._hook(batch)
        return batch.bars.tail("close", 1) * self._factor


def with_probe(hook: Hook = lambda _: None, **about: Any) -> FeatureRegistry:
    registry = FeatureRegistry()
    registry.register(Probe(hook, **about))
    return registry


def label(installation: RebuildInstallation, numbers: range) -> None:
    closed = utc_text(START + timedelta(days=40))
    with installation.store.atomic():
        installation.store.outcomes.record([OutcomeRow(f"s-{n}", 0, closed, n - 5.5, 1.0, "target") for n in numbers])


def test_a_rebuilt_vector_is_to_the_bit_what_the_worker_computes_live(
    installation: RebuildInstallation, tmp_path: Path
) -> None:
    installation.receive(EVENTS)
    before = features(installation.store)
    done = installation.rebuild().run()
    assert (done.rebuilt, done.unchanged, done.overtaken, done.not_rebuilt) == (50, 0, 0, [])
    received = [decode_kept(orjson.dumps(one)) for one in EVENTS]
    by_hand = FeaturePipeline(NEW).extract_batch(
        [FeatureRequest(s.signal_id, s.timestamp_us, s.metadata, s.bars, s.benchmark, s.news) for s in received]
    )
    after = features(installation.store)
    assert [after[s.signal_id][1] for s in received] == [row.tobytes() for row in by_hand.values]
    with rebuild_installation.rebuild_installation(tmp_path / "live") as live:
        live.receive(EVENTS, NEW)
        assert features(installation.store) == features(live.store)
        matrix = FeaturePipeline(NEW)
        label(installation, range(50))
        label(live, range(50))
        got, want = (
            one.store.vectors.training_matrix(feature_version=matrix.feature_version, names=matrix.names)
            for one in (installation, live)
        )
        assert got.X.tobytes() == want.X.tobytes()
        assert len(got.X) == 50
    assert all(before[name] != after for name, after in features(installation.store).items())


def test_labels_predictions_history_and_the_day_of_entry_stay(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS)
    label(installation, range(30))
    with installation.store.atomic():
        installation.store.scores.put_served(
            [(f"s-{n}", None, "cold_start", b"as published %d" % n) for n in range(50)]
        )
    installation.store._connection.run(
        "INSERT INTO model_registry (model_id, model_type, version, created_at) VALUES (?,?,?,?)",
        ("m", "signal_quality", "1", "2026-01-01T00:00:00.000000Z"),
    )
    with installation.store.atomic():
        installation.store.scores.log_predictions([PredictionRow("s-1", "m", utc_text(START), 0.6, 0.2, 0.5)])
    tables = ("trade_outcomes", "prediction_log", "served_scores", "counters", "duplicate_events", "dead_letters")
    kept = "signal_id, timestamp, target_r_multiple, target_binary, target_return_pct, created_at, symbol, asset_class,"
    kept += " signal_type, conviction, event_hash, entry_id, label_time, label_revision, id, complete"
    labels = f"SELECT {kept} FROM feature_vectors ORDER BY id"  # noqa: S608
    before = [dump(installation.store, table) for table in tables], installation.store._connection.query(labels)
    assert installation.rebuild().run().rebuilt == 50
    assert (
        [dump(installation.store, table) for table in tables],
        installation.store._connection.query(labels),
    ) == before
    version = FeaturePipeline(NEW).feature_version
    assert len(installation.store.vectors.training_matrix(feature_version=version, names=("atr_ratio",)).r) == 30


@pytest.mark.parametrize("force", [False, True])
def test_rebuilding_without_a_change_changes_nothing_to_the_bit(installation: RebuildInstallation, force: bool) -> None:
    installation.receive(EVENTS)
    label(installation, range(0, 50, 3))
    before = dump(installation.store, "feature_vectors")
    done = installation.rebuild(OLD).run(force=force)
    assert (done.rebuilt, done.unchanged, done.not_rebuilt) == (0, 50 if force else 0, [])
    assert dump(installation.store, "feature_vectors") == before
    installation.rebuild(NEW).run()
    installation.rebuild(OLD, batch_size=7).run()
    there_and_back = [(*row[:9], *row[10:]) for row in dump(installation.store, "feature_vectors")]
    assert there_and_back == [(*row[:9], *row[10:]) for row in before]  # all but updated_at


def test_a_batch_of_any_size_gives_the_same_bits(installation: RebuildInstallation, tmp_path: Path) -> None:
    installation.receive(EVENTS)
    whole = []
    for size in (1, 3, 64):
        installation.rebuild(OLD).run()
        installation.rebuild(NEW, batch_size=size).run()
        whole.append(features(installation.store))
    assert whole[0] == whole[1] == whole[2]


def test_bars_come_from_the_market_data_as_of_the_signals_own_time(
    installation: RebuildInstallation, tmp_path: Path
) -> None:
    ends = START + timedelta(days=30)
    history = bars(200, end=ends, seed=4)
    file = installation.directory / "market" / "ACME.csv"
    file.write_text(csv_of({name: column[:175] for name, column in history.items()}))
    bare = [signal(number, bars=None) for number in range(40)]
    installation.receive(bare, NEW)
    live = features(installation.store)
    installation.rebuild(OLD).run()
    file.write_text(csv_of(history))  # thirty days later
    assert installation.rebuild(NEW).run().rebuilt == 40
    assert features(installation.store) == live


def test_what_cannot_be_rebuilt_stays_and_is_listed_with_its_reason(installation: RebuildInstallation) -> None:
    market = installation.directory / "market"
    for symbol in ("GONE", "STALE", "BROKEN"):
        (market / f"{symbol}.csv").write_text(csv_of(bars(50, seed=2)))
    installation.receive([event(n) for n in range(7)])
    installation.receive([signal(7, bars=None, symbol="GONE"), signal(8, bars=None, symbol="STALE")])
    installation.receive([signal(9, bars=None, symbol="BROKEN")])
    installation.store.store_feature_vector(FeatureVector("by-hand", "2024-01-01", {"x": 1.0}), symbol="HAND")
    drop = "DELETE FROM events WHERE entry_id = ?"
    damage = "UPDATE events SET payload = ?, packed = ? WHERE entry_id = ?"
    archive = installation.archive.engine.connection
    archive.run(drop, ("1-0",))
    archive.run(damage, (b"\x00", 1, "2-0"))
    archive.run(damage, (b"\x7b", 0, "3-0"))
    archive.run(drop, ("4-0",))
    installation.archive.append(
        [ArchivedEvent(STREAM, "4-0", utc_text(START), orjson.dumps(event(3, technical_score=1.0)))]
    )
    (market / "GONE.csv").unlink()
    (market / "STALE.csv").write_text(csv_of(bars(50, end=START - timedelta(days=9))))
    (market / "BROKEN.csv").write_text("timestamp,open\n")
    before = dump(installation.store, "feature_vectors")

    def stumble(batch: SignalBatch) -> None:
        if any(request.signal_id == "s-5" for request in batch.requests):
            raise ZeroDivisionError("no volume")

    registry = with_probe(stumble)
    done = installation.rebuild(NEW, registry).run()
    why = {one.signal_id: (one.obstacle, one.detail) for one in done.not_rebuilt}
    assert {signal_id: obstacle for signal_id, (obstacle, _) in why.items()} == {
        "by-hand": Obstacle.NO_EVENT,
        "s-0": Obstacle.NO_ARCHIVED_EVENT,
        "s-1": Obstacle.BAD_EVENT,
        "s-2": Obstacle.BAD_EVENT,
        "s-3": Obstacle.OTHER_EVENT,
        "s-5": Obstacle.INCOMPLETE,
        "s-7": Obstacle.NO_MARKET_DATA,
        "s-8": Obstacle.NO_MARKET_DATA,
        "s-9": Obstacle.BAD_MARKET_DATA,
    }
    assert done.rebuilt == 2
    assert "probe" in why["s-5"][1]
    assert "no volume" in why["s-5"][1]
    assert why["s-7"][1].startswith("GONE: there is no file GONE.csv or GONE.parquet; wanted bars up to 2024-03-02T04")
    assert "STALE: no bar within the 7 days up to 2024-03-02T05" in why["s-8"][1]
    assert "to 2024-02-21T21" in why["s-8"][1]
    assert "BROKEN" in why["s-9"][1]
    left = [row for row in dump(installation.store, "feature_vectors") if row[1] in why]
    assert left == [row for row in before if row[1] in why]

    again = installation.rebuild(NEW, with_probe()).run()
    assert again.rebuilt == 1
    assert len(again.not_rebuilt) == 8


def test_without_an_archive_nothing_is_rebuilt_and_all_of_it_is_said(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:5])
    installation.archive.prune(datetime(2027, 1, 1, tzinfo=UTC))
    done = installation.rebuild().run()
    assert done.obstacles == {"no_archived_event": 5}
    assert (done.rebuilt, installation.rebuild().pending()) == (0, {FeaturePipeline(OLD).feature_version: 5})


def test_an_event_of_a_stream_that_was_renamed_since_is_found(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:5])
    installation.archive.engine.connection.run("UPDATE events SET stream = 'signals.v1' WHERE id % 2 = 1")
    assert installation.rebuild().run().rebuilt == 5
    assert installation.archive.streams() == [STREAM, "signals.v1"]


def test_a_rebuild_that_was_ended_goes_on_with_the_rest(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS)
    told = []

    def end(count: int) -> None:
        told.append(count)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        installation.rebuild().run(progress=end)
    assert installation.rebuild().pending() == {FeaturePipeline(OLD).feature_version: 50 - sum(told)}
    assert installation.rebuild().run().rebuilt == 50 - sum(told)
    assert installation.rebuild().run().rebuilt == 0


def test_a_vector_that_is_changed_meanwhile_is_not_overwritten(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:10])
    with FeatureDatabase(store_place(installation.directory)) as other:

        def meanwhile(batch: SignalBatch) -> None:
            if len(batch.requests) == 10:
                other.store_feature_vector(FeatureVector("s-3", "2024-03-02", {"mine": 1.0}), feature_version="mine")
                other.outcomes.record([OutcomeRow("s-4", 0, utc_text(START + timedelta(days=9)), 2.0)])

        done = installation.rebuild(NEW, with_probe(meanwhile)).run()
        assert (done.rebuilt, done.overtaken) == (9, 1)
        assert other.get_feature_vector("s-3").features == {"mine": 1.0}
        assert other.get_feature_vector("s-4").target == 2.0


def test_while_others_write_every_vector_ends_up_rebuilt_and_every_write_is_there(
    installation: RebuildInstallation,
) -> None:
    installation.receive([event(n) for n in range(200)])
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with rebuild_installation.rebuild_installation(installation.directory) as mine:
                for n in range(200, 400, 4):
                    mine.receive([event(m) for m in range(n, n + 4)])
                    label(mine, range(n - 200, n - 196))
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    rebuilt = overtaken = 0
    while thread.is_alive() or installation.rebuild().pending():
        done = installation.rebuild(batch_size=32).run()
        rebuilt, overtaken = rebuilt + done.rebuilt, overtaken + done.overtaken
    join(thread)
    assert failures == []
    assert (rebuilt, overtaken) == (400, 0)
    version = FeaturePipeline(NEW).feature_version
    assert installation.store.versions.counts() == {version: 400}
    assert len(installation.store.vectors.training_matrix(feature_version=version, names=("atr_ratio",)).r) == 200


def test_an_extractors_new_version_rebuilds_though_its_values_stay(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:20], registry=with_probe())
    before = features(installation.store)
    assert installation.rebuild(OLD, with_probe(version=2)).run().rebuilt == 20
    after = features(installation.store)
    assert [row[:2] for row in after.values()] == [row[:2] for row in before.values()]
    assert {row[2] for row in after.values()} == {FeaturePipeline(OLD, with_probe(version=2)).feature_version}
    assert all(row[1] is not None for row in after.values()), "the packed values are kept"


def test_a_renamed_feature_is_stored_under_its_new_name_and_stays_packed(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:5], registry=with_probe())
    before = features(installation.store)
    assert installation.rebuild(OLD, with_probe(feature="newest")).run().rebuilt == 5
    after = features(installation.store)
    assert {name: row[1] for name, row in after.items()} == {name: row[1] for name, row in before.items()}
    assert all('"newest":' in row[0] and '"last":' not in row[0] for row in after.values())
    label(installation, range(5))
    pipeline = FeaturePipeline(OLD, with_probe(feature="newest"))
    matrix = installation.store.vectors.training_matrix(feature_version=pipeline.feature_version, names=("newest",))
    assert (matrix.X > 10).all()


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_an_incomplete_vector_of_this_version_is_completed_by_force(
    installation: RebuildInstallation, factor: float
) -> None:
    def fail(_: SignalBatch) -> None:
        raise ValueError("not yet")

    installation.receive(EVENTS[:4], registry=with_probe(fail))
    label(installation, range(4))
    assert installation.store.counts().incomplete == 4
    repaired = with_probe(factor=factor)  # by 0 to the neutral value, which stands there already
    assert installation.rebuild(OLD, repaired).run().rebuilt == 0
    assert installation.rebuild(OLD, repaired).run(force=True).rebuilt == 4
    assert (installation.store.counts().incomplete, installation.store.counts().labels_total) == (0, 4)


def test_a_batch_looks_once_for_each_symbol(installation: RebuildInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    for symbol in ("ACME", "BETA"):
        (installation.directory / "market" / f"{symbol}.csv").write_text(
            csv_of(bars(60, end=START + timedelta(days=3)))
        )
    many = [signal(n, bars=None, symbol=("ACME", "BETA")[n % 2]) for n in range(64)]
    installation.receive(many)
    looked: list[str] = []
    real = os.stat

    def stat(path: Any, **more: Any) -> os.stat_result:
        looked.append(str(path))
        return real(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    assert installation.rebuild(batch_size=32).run().rebuilt == 64
    names = sorted(Path(path).name for path in looked if "/market/" in path)
    assert names == sorted(["ACME.csv", "ACME.parquet", "BETA.csv", "BETA.parquet"] * 2)


@pytest.mark.sqlite_file
def test_the_rest_of_a_rebuild_is_found_through_an_index(installation: RebuildInstallation) -> None:
    plans = {
        "read": (feature_versions.READ, ("v", 0, 9, 9)),
        "replace": (feature_versions.REPLACE, (None,) * 8),
        "restamp": (feature_versions.RESTAMP, (None,) * 5),
    }
    for name, (sql, params) in plans.items():
        steps = [row[3] for row in installation.store._connection.query(f"EXPLAIN QUERY PLAN {sql}", params)]
        assert all(step.startswith("SEARCH") for step in steps), (name, steps)
    [count] = installation.store._connection.query(f"EXPLAIN QUERY PLAN {feature_versions.COUNTS}")
    assert "COVERING INDEX idx_fv_version" in count[3]


def test_the_sets_of_features_can_be_exchanged(installation: RebuildInstallation) -> None:
    installation.receive(EVENTS[:10])
    minimal = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.MINIMAL))
    assert installation.rebuild(minimal.config).run().rebuilt == 10
    label(installation, range(10))
    matrix = installation.store.vectors.training_matrix(feature_version=minimal.feature_version, names=minimal.names)
    assert matrix.X.shape == (10, len(minimal.names))
    assert np.isfinite(matrix.X).all()
    assert set(installation.store.get_feature_vector("s-1").features) == set(minimal.names)
