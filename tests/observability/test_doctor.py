"""`refinery doctor` on a healthy set-up and on broken ones: it names what is wrong, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, signal
from tests.support.models_in_files import only_in_files
from tests.support.small_disk import SmallDisk, can_be_mounted
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage.times import utc_now
from worker.installation import open_store
from worker.observability import doctor
from worker.observability.findings import Finding
from worker.settings.schema import load_settings


@pytest.fixture
def set_up(tmp_path: Path, valkey: redis.Redis, valkey_url: str) -> Any:
    """A healthy installation with a model that serves and a market-data directory."""
    import numpy as np

    market = tmp_path / "market"
    market.mkdir()
    columns = signal(1)["bars"]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (market / "ACME.csv").write_text("\n".join(lines) + "\n")
    settings = settings_for(
        tmp_path / "var", valkey_url, market_data_dir=market, benchmark_symbols={"equity": "ACME"}, console_port=0
    )
    valkey.config_set("appendonly", "yes")
    with desk(settings) as world:
        send(world.client, SIGNALS, signal(1))
        world.drain()
        version, names = world.store._connection.query(
            "SELECT feature_version, (SELECT names FROM feature_lists) FROM feature_vectors"
        )[0]
        rng = np.random.default_rng(1)
        X = rng.normal(size=(120, len(json.loads(names))))
        model = SignalQualityModel(min_samples=50)
        model.fit(X, rng.normal(size=120), feature_names=json.loads(names))
        model.feature_version = version
        registry = ModelRegistry(model_dir=str(settings.models_dir), db=world.store)
        registry.register(model)
        registry.activate(model.model_id)
    return settings


def test_settings_that_no_training_could_use_or_that_do_nothing_are_told(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_ML__TRAINING__HYPERPARAMETERS", '{"n_trees": 5}')
    monkeypatch.setenv("REFINERY_ML__TRAINING__EARLY_STOPPING", "true")
    settings = load_settings(state_dir=tmp_path / "var", redis_url=valkey_url)
    told = [one for one in doctor.examine(settings) if one.part == "settings"]
    assert [one.verdict for one in told] == ["ok", "bad", "warn"]
    assert "REFINERY_ML__TRAINING__HYPERPARAMETERS: unknown parameters n_trees of ensemble" in told[1].says
    assert told[2].says.startswith("REFINERY_ML__TRAINING__EARLY_STOPPING does nothing here")


def test_the_file_that_settings_were_read_from_is_named(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for written in (False, True):
        if written:
            (tmp_path / "refinery.toml").write_text(f'state_dir = "{tmp_path}/var"\n')
        settings = load_settings(state_dir=tmp_path / "var", redis_url=valkey_url)
        told = next(one for one in doctor.examine(settings) if one.part == "settings")
        assert told.says.endswith(f", file {tmp_path / 'refinery.toml'}" if written else ", no file")


def started(role: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A process of this role with these settings, once it has ended."""
    command = [sys.executable, "-m", "worker", role]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("role", ["worker", "trainer", "up"])
def test_no_process_starts_with_hyperparameters_that_no_training_could_use(
    tmp_path: Path, valkey_url: str, role: str
) -> None:
    settings = {
        "REFINERY_STATE_DIR": str(tmp_path / "var"),
        "REFINERY_REDIS_URL": valkey_url,
        "REFINERY_ML__TRAINING__HYPERPARAMETERS": '{"max_iter": "many"}',
    }
    ended = started(role, settings)
    assert ended.returncode == 1
    assert "REFINERY_ML__TRAINING__HYPERPARAMETERS: ensemble cannot use max_iter='many'" in ended.stderr


@pytest.mark.parametrize("role", ["worker", "trainer", "up"])
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "PROVIDED",
            '["edge", "rsi_14"]',
            "REFINERY_ML__FEATURES__PROVIDED: there is a feature called 'rsi_14' already",
        ),
        (
            "CUSTOM_FEATURES",
            '["rsi_15"]',
            "the features cannot be computed: no extractor or feature is called 'rsi_15'",
        ),
    ],
)
def test_no_process_starts_with_features_that_it_could_not_compute(
    tmp_path: Path, valkey_url: str, role: str, name: str, value: str, line: str
) -> None:
    features = {"FEATURE_SET": "custom", "CUSTOM_FEATURES": '["rsi_14"]', name: value}
    settings = {"REFINERY_STATE_DIR": str(tmp_path / "var"), "REFINERY_REDIS_URL": valkey_url}
    settings |= {f"REFINERY_ML__FEATURES__{field}": told for field, told in features.items()}
    ended = started(role, settings)
    assert ended.returncode == 1
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr


def bad(findings: list[Finding]) -> list[str]:
    return [finding.part for finding in findings if finding.verdict == "bad"]


def test_nothing_is_wrong_with_a_healthy_set_up(set_up: Any) -> None:
    findings = doctor.examine(set_up)
    assert {finding.verdict for finding in findings} == {"ok"}, findings
    parts = {
        "settings",
        "redis",
        "clock",
        "disk",
        "store",
        "models",
        "trainings",
        "market data",
        "console",
        "notifications",
    }
    assert parts == {finding.part for finding in findings}


def test_what_kubernetes_adds_for_services_is_named_and_is_no_setting(
    set_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_CONSOLE_PORT", "tcp://10.0.0.1:8700")
    monkeypatch.setenv("REFINERY_CONSOLE_SERVICE_HOST", "10.0.0.1")
    [told] = [finding for finding in doctor.examine(set_up) if "Kubernetes" in finding.says]
    assert told.verdict == "ok"
    assert told.says.endswith("ignored: REFINERY_CONSOLE_PORT, REFINERY_CONSOLE_SERVICE_HOST")


def told_of_trainings(settings: Any) -> Finding:
    [finding] = [finding for finding in doctor.examine(settings) if finding.part == "trainings"]
    return finding


def test_trainings_that_failed_are_counted_and_the_last_one_says_why(set_up: Any) -> None:
    assert told_of_trainings(set_up).says == (
        "none yet; 0 of 20 new labels until the next job, 0 of 100 samples until the next model"
    )
    with open_store(set_up) as store:
        for number, why in enumerate(("one_class: all 120 trades lost", "disk_full: no space")):
            store.runs.start(f"run-{number}", "signal_quality", {}, label_watermark=0)
            store.runs.finish(f"run-{number}", "failed", error_message=why)
        failed = told_of_trainings(set_up)
        store.runs.start("run-2", "signal_quality", {}, label_watermark=0)
        store.runs.finish("run-2", "completed", verdict="hold", metrics={"samples": 40, "reason": "40 of 100 samples"})
        since = told_of_trainings(set_up)
    assert (failed.verdict, since.verdict) == ("warn", "ok")
    assert failed.says.startswith("2 looked at, 2 failed, the last at ")
    assert failed.says.endswith(": disk_full: no space")
    assert since.says.startswith("3 looked at, 2 failed, the last at ")
    assert since.says.endswith("; those since have not")


def test_redis_that_is_away_or_may_forget_is_named(set_up: Any, valkey: redis.Redis) -> None:
    assert bad(doctor.examine(set_up.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))) == ["redis"]
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        findings = doctor.examine(set_up)
    finally:
        valkey.config_set("maxmemory-policy", "noeviction")
    assert bad(findings) == ["redis"]
    assert "noeviction" in next(finding.says for finding in findings if finding.part == "redis")


def test_a_damaged_store_is_named(set_up: Any) -> None:
    set_up.store_path.write_bytes(b"no database" * 1000)
    assert "store" in bad(doctor.examine(set_up))


def test_a_model_file_that_was_altered_is_named(set_up: Any) -> None:
    file = next(set_up.models_dir.glob("*.skops"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert bad(doctor.examine(set_up)) == []  # what serves is what the store keeps
    only_in_files(set_up.store_path)
    findings = doctor.examine(set_up)
    assert bad(findings) == ["models"]
    assert "rollback" in next(finding.advice for finding in findings if finding.part == "models")


def test_features_that_the_champion_was_not_fitted_on_are_named(set_up: Any) -> None:
    features = replace(set_up.ml.features, volatility_window=33)
    changed = set_up.model_copy(update={"ml": replace(set_up.ml, features=features)})
    findings = doctor.examine(changed)
    assert bad(findings) == ["models"]
    assert "was fitted on" in next(finding.says for finding in findings if finding.part == "models")


def test_market_data_that_contradicts_itself_or_is_missing_is_named(set_up: Any) -> None:
    (set_up.market_data_dir / "BAD.csv").write_text("timestamp,open\n1,2\n")
    changed = set_up.model_copy(update={"benchmark_symbols": {"equity": "SPX"}})
    findings = [finding for finding in doctor.examine(changed) if finding.verdict == "bad"]
    assert [finding.part for finding in findings] == ["market data", "market data"]
    assert "BAD.csv" in findings[0].says
    assert "SPX" in findings[1].says


@pytest.mark.parametrize(("seconds", "told"), [(0, 0), (60, 1)])
def test_a_benchmark_that_closes_at_another_minute_is_named_with_its_asset_class(
    set_up: Any, seconds: int, told: int
) -> None:
    event = signal(1)
    columns = event["bars"]
    columns = {**columns, "timestamp": [moved(time, seconds) for time in columns["timestamp"]]}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (set_up.market_data_dir / "IDX.csv").write_text("\n".join(lines) + "\n")
    settings = set_up.model_copy(update={"benchmark_symbols": {event["asset_class"]: "IDX"}})
    found = [one.says for one in doctor.examine(settings) if one.says.startswith("benchmark IDX")]
    assert len(found) == told
    for says in found:
        assert says.startswith(f"benchmark IDX of {event['asset_class']}: 0 of the last 21 bars of {event['symbol']}")


def moved(time: str, seconds: int) -> str:
    return (datetime.fromisoformat(time) + timedelta(seconds=seconds)).isoformat()


def test_a_file_of_bars_whose_suffix_is_upper_case_is_named(set_up: Any) -> None:
    (set_up.market_data_dir / "LOUD.CSV").write_text("")
    (told,) = [finding for finding in doctor.examine(set_up) if finding.part == "market data"]
    assert (told.verdict, "LOUD.CSV: not read" in told.says) == ("warn", True)


def test_a_wrong_setting_is_named_and_the_command_fails(tmp_path: Path) -> None:
    environment = {**os.environ, "REFINERY_BATCH_SIZE": "0", "REFINERY_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "worker", "doctor", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    finding = json.loads(ended.stdout)[0]
    assert finding["verdict"] == "bad"
    assert "REFINERY_BATCH_SIZE='0'" in finding["says"]


def test_an_empty_place_is_healthy_and_stays_empty(tmp_path: Path) -> None:
    environment = {**os.environ, "REFINERY_STATE_DIR": str(tmp_path / "var")}
    command = [sys.executable, "-m", "worker", "doctor"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "none yet" in ended.stdout
    assert not (tmp_path / "var").exists()


def clocks(settings: Any, **off: float) -> list[tuple[str, str]]:
    found = doctor.examine(settings, clock=lambda: utc_now() + timedelta(**off))
    return [(one.verdict, one.says) for one in found if one.part == "clock"]


def test_a_clock_that_is_off_is_told_and_is_bad_where_events_are_refused(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    assert [verdict for verdict, _ in clocks(settings)] == ["ok"]
    [(verdict, says)] = clocks(settings, seconds=90)
    assert verdict == "warn"
    assert re.fullmatch(r"this machine's clock is \d\d s ahead of the server's", says)
    [(verdict, says)] = clocks(settings, hours=-2)
    assert verdict == "bad"
    assert "behind the server's: signals are refused as future_timestamp" in says


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_state_directory_that_cannot_be_one_is_told_before_anything_is_made(
    below: str, tmp_path: Path, valkey_url: str
) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_for(tmp_path / "file" / below, valkey_url)
    told = [one for one in doctor.examine(settings) if one.part == "state directory"]
    assert [(one.verdict, one.says) for one in told] == [
        ("bad", f"{tmp_path / 'file'} is in the way: it is no directory")
    ]
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    told = [one for one in doctor.examine(settings_for(tmp_path / "gone", valkey_url)) if one.part == "state directory"]
    assert [one.verdict for one in told] == ["bad"]


def test_a_state_directory_on_a_file_system_that_takes_no_writes_is_told(tmp_path: Path, valkey_url: str) -> None:
    if not can_be_mounted(tmp_path):
        pytest.skip("no file system can be mounted here")
    disk = SmallDisk(tmp_path / "disk", megabytes=1)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.place)], check=True)
        found = doctor.examine(settings_for(disk.place / "var", valkey_url))
    finally:
        disk.close()
    assert f"{disk.place} lies on a file system that is mounted read-only" in [one.says for one in found]
