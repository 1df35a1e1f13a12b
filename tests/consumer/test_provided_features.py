"""What only the desk knows, from the event to vector, score, dead letter and rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from prometheus_client import CollectorRegistry

from tests.support.desk import Desk, desk, scored, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from worker.app import feature_rebuild
from worker.dead_letters import DeadLetters
from worker.errors import ConfigurationError
from worker.installation import feature_pipeline
from worker.observability.doctor import examine
from worker.observability.metrics import LoopMetrics
from worker.settings.schema import Settings

LISTED: dict[str, Any] = {"provided": ["funding", "edge"]}
ALONE = {"feature_set": "custom", "custom_features": ["provided_features"], **LISTED}


def told(state_dir: Path, url: str, features: dict[str, Any], **changes: Any) -> Settings:
    return settings_for(state_dir, url, ml={"features": features}, **changes)


def without_bars(number: int, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in signal(number, **changes).items() if name != "bars"}


def features_of(worker: Desk, number: int) -> dict[str, float]:
    vector = worker.store.get_feature_vector(f"s-{number}")
    assert vector is not None
    assert vector.incomplete == ""
    return vector.features


def test_listed_numbers_are_stored_and_others_counted_and_missing_ones_neutral(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    listed = {**LISTED, "provided_neutral": {"edge": -1.0}}
    with desk(told(tmp_path, valkey_url, listed)) as worker:
        send(valkey, SIGNALS, signal(1, features={"edge": 2, "funding": -0.5, "others": 1, "unlisted": 2}))
        send(valkey, SIGNALS, signal(2, features={"funding": 0.25}))
        send(valkey, SIGNALS, signal(3))
        handled = worker.drain()
        assert (handled.signals, handled.dead_lettered) == (3, 0)
        assert (handled.unknown_fields, handled.missing_features) == (2, 3)
        found = [list(features_of(worker, number).items())[-2:] for number in (1, 2, 3)]
        assert found == [
            [("funding", -0.5), ("edge", 2.0)],
            [("funding", 0.25), ("edge", -1.0)],
            [("funding", 0.0), ("edge", -1.0)],
        ]
        assert [answer["status"] for answer in scored(valkey)] == ["cold_start"] * 3
        send(valkey, TRADES, outcome(3, 1.0))
        worker.drain()
        assert worker.store.count_samples() == 1
    registry = CollectorRegistry()
    LoopMetrics(registry).count([], handled, 0.1)
    assert registry.get_sample_value("refinery_unknown_fields_total") == 2
    assert registry.get_sample_value("refinery_missing_features_total") == 3


def test_without_the_setting_they_are_counted_and_change_no_vector(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        send(valkey, SIGNALS, signal(1, features={"edge": 2, "funding": -0.5}))
        send(valkey, SIGNALS, signal(1, signal_id="s-2"))
        handled = worker.drain()
        assert (handled.signals, handled.unknown_fields, handled.missing_features) == (2, 2, 0)
        assert features_of(worker, 1) == features_of(worker, 2)
        assert len(features_of(worker, 1)) == 40
    assert {answer["feature_version"] for answer in scored(valkey)} == {"standard-e084b247"}


@pytest.mark.parametrize("directory", [None, "empty"])
def test_where_no_feature_is_made_from_bars_a_signal_needs_none(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str, directory: str | None
) -> None:
    market = None if directory is None else tmp_path / directory
    if market:
        market.mkdir()
    settings = told(tmp_path / "var", valkey_url, ALONE, market_data_dir=market, benchmark_symbols={"equity": "SPX"})
    with desk(settings) as worker:
        if market:
            market.rmdir()  # a directory that is gone pauses only whoever wants something from it
        send(valkey, SIGNALS, without_bars(1, features={"edge": 2.0}))
        send(valkey, SIGNALS, signal(2, features={"funding": 3.0}))
        handled = worker.drain()
        assert (handled.signals, handled.dead_lettered) == (2, 0)
        assert features_of(worker, 1) == {"funding": 0.0, "edge": 2.0}
        assert features_of(worker, 2) == {"funding": 3.0, "edge": 0.0}
    assert [answer["status"] for answer in scored(valkey)] == ["cold_start"] * 2


@pytest.mark.parametrize("features", [LISTED, {**ALONE, "custom_features": ["edge", "rsi_14"]}])
def test_where_one_is_a_signal_without_bars_is_dead_lettered_as_ever(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str, features: dict[str, Any]
) -> None:
    with desk(told(tmp_path, valkey_url, features)) as worker:
        send(valkey, SIGNALS, without_bars(1, features={"edge": 2.0}))
        worker.drain()
        assert [letter.reason for letter in worker.store.dead_letters.find()] == ["no_market_data"]


def test_a_model_of_the_listed_features_scores_signals_without_bars_and_none_after_a_renaming(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    settings = told(tmp_path, valkey_url, ALONE)
    pipeline = feature_pipeline(settings)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 2))
    model = SignalQualityModel(max_iter=12)
    model.fit(X, np.where(X[:, 1] + 0.1 * rng.standard_normal(300) > 0, 1.4, -1.0), feature_names=pipeline.names)
    model.feature_version = pipeline.feature_version
    with desk(settings) as worker:
        registry = ModelRegistry.from_config(settings.to_ml_config(), worker.store)
        registry.enter(model)
        registry.promote(model.model_id, proven=True)
        send(valkey, SIGNALS, without_bars(1, features={"edge": 2.0}))
        send(valkey, SIGNALS, without_bars(2, features={"edge": -2.0}))
        worker.drain()
    high, low = scored(valkey)
    assert (high["model_id"], low["model_id"]) == (model.model_id, model.model_id)
    assert high["quality_score"] > 0.7 > 0.3 > low["quality_score"]

    with desk(told(tmp_path, valkey_url, {**ALONE, "provided": ["funding", "desk_edge"]})) as worker:
        send(valkey, SIGNALS, without_bars(3, features={"edge": 2.0}))
        handled = worker.drain()
        assert (handled.signals, handled.unknown_fields, handled.missing_features) == (1, 1, 2)
        assert features_of(worker, 3) == {"funding": 0.0, "desk_edge": 0.0}
    renamed = scored(valkey)[-1]
    assert (renamed["status"], renamed["model_id"], renamed["quality_score"]) == ("cold_start", None, None)
    assert renamed["feature_version"] != high["feature_version"]


def test_the_same_features_twice_are_one_event_and_others_a_conflict(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    with desk(told(tmp_path, valkey_url, ALONE)) as worker:
        send(valkey, SIGNALS, without_bars(1, features={"edge": 2.0, "x": 1}))
        send(valkey, SIGNALS, without_bars(1, features={"x": 1.0, "edge": 2}))
        send(valkey, SIGNALS, without_bars(1, features={"x": 1.0, "edge": 2.5}))
        send(valkey, SIGNALS, without_bars(1, features={"x": 1.5, "edge": 2}))
        handled = worker.drain()
        assert (handled.signals, handled.duplicates, handled.dead_lettered) == (1, 1, 2)
        assert {letter.reason for letter in worker.store.dead_letters.find()} == {"identity_conflict"}
        assert features_of(worker, 1)["edge"] == 2.0


def test_a_refused_number_is_kept_and_an_edit_lets_it_in(tmp_path: Path, valkey: redis.Redis, valkey_url: str) -> None:
    with desk(told(tmp_path, valkey_url, ALONE)) as worker:
        bad = orjson.dumps(without_bars(1, features={"edge": "2.5", "funding": 0.5}))
        send(valkey, SIGNALS, bad)
        worker.drain()
        [letter] = worker.store.dead_letters.find(payloads=True)
        assert (letter.reason, letter.payload) == ("schema", bad)
        assert "features.edge" in letter.error
        letters = DeadLetters(worker.store, version="test")
        letters.edit(letter, bad.replace(b'"2.5"', b"2.5"), actor="ops")
        edited = worker.store.dead_letters.get(letter.id)
        assert edited is not None
        letters.replay(valkey, [edited], actor="ops")
        worker.drain()
        assert features_of(worker, 1) == {"funding": 0.5, "edge": 2.5}
        assert worker.store.dead_letters.find() == []


def test_a_rebuild_finds_numbers_that_were_not_listed_when_they_came(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        send(valkey, SIGNALS, signal(1, features={"edge": 2, "funding": -0.5}))
        send(valkey, SIGNALS, signal(2))
        send(valkey, TRADES, outcome(1, 1.0))
        worker.drain()
    settings = told(tmp_path, valkey_url, LISTED)
    with feature_rebuild(settings) as job:
        done = job.run()
    assert (done.rebuilt, done.not_rebuilt) == (2, [])
    with desk(settings) as worker:
        assert list(features_of(worker, 1).items())[-2:] == [("funding", -0.5), ("edge", 2.0)]
        assert list(features_of(worker, 2).items())[-2:] == [("funding", 0.0), ("edge", 0.0)]
        pipeline = feature_pipeline(settings)
        matrix = worker.store.vectors.training_matrix(feature_version=pipeline.feature_version, names=pipeline.names)
        assert matrix.X[:, -2:].tolist() == [[-0.5, 2.0]]
    with feature_rebuild(told(tmp_path, valkey_url, ALONE)) as job:
        assert job.run().rebuilt == 2
    with desk(settings) as worker:
        assert features_of(worker, 1) == {"funding": -0.5, "edge": 2.0}


@pytest.mark.sqlite_file  # what doctor finds of the store is another test's
def test_a_name_that_is_taken_stops_the_start_with_one_line(tmp_path: Path, valkey_url: str) -> None:
    settings = told(tmp_path, valkey_url, {"provided": ["edge", "rsi_14"]})
    with pytest.raises(ConfigurationError) as refused, desk(settings):
        pass
    assert str(refused.value) == (
        "REFINERY_ML__FEATURES__PROVIDED: there is a feature called 'rsi_14' already; choose another name"
    )
    bad = [finding for finding in examine(settings) if finding.verdict == "bad"]
    assert [(one.part, one.says) for one in bad] == [("settings", str(refused.value))]


def test_doctor_tells_which_names_never_come_and_which_are_not_listed(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    def found(features: dict[str, Any]) -> list[tuple[str, str]]:
        settings = told(tmp_path, valkey_url, features)
        return [(one.verdict, one.says) for one in examine(settings) if one.part == "features"]

    assert found(LISTED) == [("ok", "2 provided are listed; no signal is in the archive yet")]
    with desk(told(tmp_path, valkey_url, LISTED)) as worker:
        send(valkey, SIGNALS, signal(1, features={"egde": 2}))
        send(valkey, SIGNALS, signal(2, features={"funding": 1, "edge": "no number"}))
        send(valkey, SIGNALS, signal(3, features={"funding": 1}))
        send(valkey, TRADES, outcome(1))
        worker.drain()
        assert found(LISTED) == [
            ("warn", "none of the 2 newest signals brings edge: a neutral value stands for it"),
            ("warn", "of the 2 newest signals some bring egde, which is not listed"),
        ]
        assert found({"provided": ["funding", "egde"]}) == [
            ("ok", "of the 2 newest signals each of the 2 listed names came with some")
        ]
        assert found({}) == []


def test_the_version_of_the_settings_is_the_librarys(tmp_path: Path, valkey_url: str) -> None:
    config = FeatureConfig(
        feature_set=FeatureSet.CUSTOM, custom_features=["provided_features"], provided=["funding", "edge"]
    )
    ours = feature_pipeline(told(tmp_path, valkey_url, ALONE))
    assert ours.feature_version == FeaturePipeline(config).feature_version
