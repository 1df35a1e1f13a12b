"""Rebuilding as an operator meets it: a worker, its store, the command line, and what serves meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from loguru import logger
from typer.testing import CliRunner

from tests.support.desk import desk, scored, send, settings_for
from tests.support.events import SIGNALS, START, TRADES, bars, outcome, signal
from tests.support.rebuild_installation import csv_of
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.features import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from worker.cli.main import cli
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.observability.status import read_status
from worker.settings.schema import Settings

CHANGE = {"ml": {"features": {"volatility_window": 15}}}
CHANGED = {"REFINERY_ML__FEATURES__VOLATILITY_WINDOW": "15"}


def variables(settings: Settings, **more: str) -> dict[str, str]:
    market = {"REFINERY_MARKET_DATA_DIR": str(settings.market_data_dir)} if settings.market_data_dir else {}
    return {"REFINERY_STATE_DIR": str(settings.state_dir), **market, **more}


def told(settings: Settings, *arguments: str, **more: str) -> str:
    """What the command prints; called in this process, since starting one takes longer than most tests."""
    done = CliRunner().invoke(cli, arguments, env=variables(settings, **more), catch_exceptions=False)
    logger.remove()
    assert done.exit_code == 0, done.stderr
    return done.stdout


def document(settings: Settings, *arguments: str, **more: str) -> Any:
    return json.loads(told(settings, *arguments, "--json", **more))


def activated(settings: Settings) -> SignalQualityModel:
    """A model that was fitted on these settings' features and serves."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, len(pipeline.names)))
    model = SignalQualityModel(max_iter=12)
    model.fit(X, np.where(X[:, 0] + rng.normal(size=300) > 0, 1.4, -1.0), feature_names=list(pipeline.names))
    model.feature_version = pipeline.feature_version
    with open_store(settings) as store:
        registry = ModelRegistry(str(settings.models_dir), store)
        registry.register(model)
        assert registry.activate(model.model_id)
    return model


def test_after_a_change_of_features_nothing_is_dead_lettered_and_scores_start_cold(
    state_dir: Path, valkey: redis.Redis, valkey_url: str, errors_logged: list[str]
) -> None:
    before = settings_for(state_dir, valkey_url)
    model = activated(before)
    with desk(before) as worker:
        for number in range(3):
            send(valkey, SIGNALS, signal(number))
        worker.drain()
    after = settings_for(state_dir, valkey_url, **CHANGE)
    with desk(after) as worker:
        for number in range(3, 9):
            send(valkey, SIGNALS, signal(number))
            worker.drain()
        assert worker.store.counts().dead_letters == 0
        assert [score["status"] for score in scored(valkey)] == ["scored"] * 3 + ["cold_start"] * 6
        assert [model.model_id in line for line in errors_logged] == [True]
        assert read_status(after, worker.store, worker.client).champion_fits is False
        assert "refinery features rebuild" in told(after, "status", REFINERY_REDIS_URL=valkey_url, **CHANGED)
        fit = activated(after)
        assert read_status(after, worker.store, worker.client).champion_fits is True
        send(valkey, SIGNALS, signal(9))
        worker.drain()
        assert scored(valkey)[-1]["model_id"] == fit.model_id


def test_the_command_rebuilds_what_the_worker_stored_and_a_second_time_nothing(
    state_dir: Path, valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    market = tmp_path / "market"
    market.mkdir()
    (market / "FILED.csv").write_text(csv_of(bars(90, end=START + timedelta(days=2), seed=9)))
    settings = settings_for(state_dir, valkey_url, market_data_dir=market)
    with desk(settings) as worker:
        for number in range(12):
            filed = {"bars": None, "symbol": "FILED"} if number % 3 == 0 else {}
            send(valkey, SIGNALS, signal(number, **filed))
            send(valkey, TRADES, outcome(number))
        worker.drain()
        old = FeaturePipeline(settings.to_ml_config().features).feature_version
        assert document(settings, "features", "rebuild", "--dry-run") == {}
        assert document(settings, "features", "rebuild", "--force")["unchanged"] == 12
        assert document(settings, "features", "rebuild", "--dry-run", **CHANGED) == {old: 12}
        (market / "FILED.csv").rename(market / "AWAY.csv")
        half = document(settings, "features", "rebuild", **CHANGED)
        assert (half["rebuilt"], len(half["not_rebuilt"])) == (8, 4)
        assert {one["obstacle"] for one in half["not_rebuilt"]} == {"no_market_data"}
        text = told(settings, "features", "rebuild", **CHANGED)
        assert "0 rebuilt as " in text
        assert "4 stay as they are: 4 no_market_data" in text
        assert "FILED: there is no file FILED.csv or FILED.parquet; wanted bars up to 2024-03-01T21" in text
        (market / "AWAY.csv").rename(market / "FILED.csv")
        assert document(settings, "features", "rebuild", **CHANGED)["rebuilt"] == 4
        last = document(settings, "features", "rebuild", **CHANGED)
        new = document(settings, "features", **CHANGED)["feature_version"]
        wanted = {"feature_version": new, "rebuilt": 0, "unchanged": 0, "overtaken": 0, "not_rebuilt": []}
        assert last == wanted
        assert worker.store.versions.counts() == {new: 12}
        assert worker.store.counts().labelled == 12
        wrote = worker.store._connection.query("SELECT DISTINCT updated_at IS NULL FROM feature_vectors")
        assert wrote == [(0,)]


@pytest.mark.sqlite_file
def test_a_rebuild_that_cannot_use_the_store_fails_with_one_line(state_dir: Path) -> None:
    (state_dir / "features.db").write_bytes(b"not a database at all, only words" * 100)
    environment = {**os.environ, "REFINERY_STATE_DIR": str(state_dir)}
    done = subprocess.run(
        [sys.executable, "-m", "worker", "features", "rebuild"],
        env=environment,
        capture_output=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().strip().splitlines()[-1].startswith("refinery: ")


def test_a_worker_enters_what_its_features_mean_into_the_store(state_dir: Path, valkey_url: str) -> None:
    with desk(settings_for(state_dir, valkey_url, **CHANGE)) as worker:
        pipeline = FeaturePipeline(worker.settings.to_ml_config().features)
        rows = {row.name: row for row in worker.store.definitions.all()}
        assert rows.keys() == set(pipeline.names)
        assert {rows[one.name].description for one in pipeline.definitions()} == {
            one.meaning for one in pipeline.definitions()
        }
        assert rows["rsi_14"].category == "technical"


def test_the_features_are_listed_for_people_and_for_machines(state_dir: Path) -> None:
    settings = settings_for(state_dir, "redis://127.0.0.1:1")
    listed = document(settings, "features", REFINERY_ML__FEATURES__FEATURE_SET="extended")
    names = [one["name"] for one in listed["features"]]
    assert {"rsi_14", "news_any", "days_from_high", "is_crypto"} <= set(names)
    about = {one["name"]: one for one in listed["features"]}["rsi_14"]
    assert (about["low"], about["high"], about["neutral"], about["lookback_bars"]) == (0.0, 1.0, 0.5, 15)
    assert about["category"] == "technical"
    text = told(settings, "features")
    assert "rsi_14" in text
    assert "standard-" in text
    assert not (settings.state_dir / "features.db").exists()


def test_features_that_do_not_exist_stop_with_the_near_ones_named(state_dir: Path) -> None:
    settings = settings_for(state_dir, "redis://127.0.0.1:1")
    chosen = {"REFINERY_ML__FEATURES__FEATURE_SET": "custom", "REFINERY_ML__FEATURES__CUSTOM_FEATURES": '["rsi_41"]'}
    with pytest.raises(ConfigurationError, match="rsi_14"):
        told(settings, "features", **chosen)


def test_the_age_of_bars_that_is_let_pass_is_a_setting_and_what_is_missing_is_said(
    state_dir: Path, valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    market = tmp_path / "market"
    market.mkdir()
    (market / "OLD.csv").write_text(csv_of(bars(90, end=START - timedelta(days=3))))
    (market / "BAD.csv").write_text("timestamp,open\n")
    strict = settings_for(state_dir, valkey_url, market_data_dir=market, market_max_bar_age_days=2)
    with desk(strict) as worker:
        for number in range(3):
            send(valkey, SIGNALS, signal(number, bars=None, symbol="OLD"))
        send(valkey, SIGNALS, signal(3, bars=None, symbol="NONE"))
        send(valkey, SIGNALS, signal(4, bars=None, symbol="BAD"))
        worker.drain()
        assert worker.store.counts().signals == 0
        rows = {row["symbol"]: row for row in document(strict, "features", "missing")}
        assert list(rows) == ["OLD", "BAD", "NONE"]
        assert (rows["OLD"]["signals"], rows["OLD"]["reason"]) == (3, "no_market_data")
        assert (rows["OLD"]["first"], rows["OLD"]["last"]) == (
            "2024-03-01T21:00:00.000000Z",
            "2024-03-01T23:00:00.000000Z",
        )
        assert "within the 2 days" in rows["OLD"]["detail"]
        assert "to 2024-02-27T21:00:00" in rows["OLD"]["detail"]
        assert rows["BAD"]["reason"] == "bad_market_data"
        text = told(strict, "features", "missing")
        assert "OLD: 3 signals of 2024-03-01T21:00:00Z to 2024-03-01T23:00:00Z wait." in text
        assert "NONE: 1 signal of 2024-03-02T00:00:00Z wait." in text
    with desk(settings_for(state_dir, valkey_url, market_data_dir=market)) as worker:
        send(valkey, SIGNALS, signal(9, bars=None, symbol="OLD"))
        worker.drain()
        assert worker.store.counts().signals == 1


def test_a_batch_of_the_worker_looks_once_for_each_symbol(
    state_dir: Path, valkey: redis.Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = tmp_path / "market"
    market.mkdir()
    for symbol in ("ACME", "BETA"):
        (market / f"{symbol}.csv").write_text(csv_of(bars(60, end=START + timedelta(days=2))))
    with desk(settings_for(state_dir, valkey_url, market_data_dir=market)) as worker:
        for number in range(40):
            send(valkey, SIGNALS, signal(number, bars=None, symbol=("ACME", "BETA")[number % 2]))
        looked: list[str] = []
        real = os.stat

        def stat(path: Any, **more: Any) -> os.stat_result:
            if Path(path).parent == market:
                looked.append(Path(path).name)
            return real(path, **more)

        monkeypatch.setattr(os, "stat", stat)
        assert worker.drain().signals == 40
        assert sorted(looked) == ["ACME.csv", "ACME.parquet", "BETA.csv", "BETA.parquet"]
