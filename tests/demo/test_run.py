"""The demo's place: apart from real state, empty each time, and told to the other processes without loss."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import redis

from tests.support.real_processes import QUIET, REFINERY
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.simulation.market_data import load_stocks
from trading_system.simulation.timeline import Moment, timeline_of
from worker.demo import run as demo
from worker.demo.run import config_of, demo_settings, environment_of, learning_goes_on, own_place, up_to
from worker.demo.worlds import MIN_NEW_SAMPLES, STEP_SIZE_DAYS, TRAIN_WINDOW_DAYS, DemoWorld, edge_world, real_prices
from worker.errors import ConfigurationError, RefineryError
from worker.installation import open_store
from worker.retraining.job import sweep
from worker.retraining.lease import training_lease
from worker.settings.schema import Settings, load_settings


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return load_settings(state_dir=state_dir)


#: An installation whose parts are elsewhere; the demo's are its own.
OF_SEVERAL_HOSTS = {
    "REFINERY_STORE_URL": "postgresql://refinery@localhost/refinery",
    "REFINERY_STORE_READ_URL": "postgresql://refinery@localhost/standby",
    "REFINERY_SHARDS": "4",
    "REFINERY_QUEUE_URL": "redis://localhost:1/0",
}


@pytest.fixture(scope="module")
def market() -> DemoWorld:
    return real_prices()


@pytest.fixture(scope="module")
def timeline() -> tuple[Moment, ...]:
    stocks = load_stocks()
    return timeline_of({"MSFT": stocks["MSFT"].iloc[:120]})


@pytest.mark.parametrize("own", [{}, OF_SEVERAL_HOSTS], ids=["a directory", "several hosts"])
@pytest.mark.parametrize("world", [real_prices, edge_world])
def test_another_process_reads_the_very_settings_of_the_demo(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, world: Callable[[], DemoWorld], own: dict[str, str]
) -> None:
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    played = world()
    chosen = demo_settings(load_settings(state_dir=settings.state_dir), played)
    assert (chosen.store_url, chosen.store_read_url, chosen.shards) == (None, None, 1)
    assert chosen.market_data_dir is not None
    chosen.market_data_dir.mkdir(parents=True)
    for name, value in environment_of(chosen, "unix:///tmp/valkey.sock").items():
        monkeypatch.setenv(name, value)
    told = load_settings()
    server = "unix:///tmp/valkey.sock"
    assert told == chosen.model_copy(update={"redis_url": server, "queue_url": server, "log_level": "WARNING"})
    assert told.state_dir == settings.state_dir / "demo"
    assert told.ml.min_new_samples_for_retrain == played.min_new_samples
    for name, value in played.training.items():
        assert getattr(told.ml.training, name) == value
    assert played.features is None or told.ml.features == played.features


@pytest.mark.parametrize("world", [real_prices, edge_world])
def test_a_command_in_the_directory_of_the_demo_has_the_very_settings_of_the_demo(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, world: Callable[[], DemoWorld], valkey_url: str
) -> None:
    monkeypatch.setenv("REFINERY_ML__TRAINING__HYPERPARAMETERS", '{"max_iter": 40}')
    monkeypatch.setenv("REFINERY_BENCHMARK_SYMBOLS", '{"crypto": "BTC/USD"}')
    chosen = demo_settings(load_settings(state_dir=settings.state_dir, redis_url=valkey_url), world())
    assert chosen.market_data_dir is not None
    chosen.market_data_dir.mkdir(parents=True)
    (chosen.state_dir / "refinery.toml").write_text(config_of(chosen))
    for name in ("REFINERY_ML__TRAINING__HYPERPARAMETERS", "REFINERY_BENCHMARK_SYMBOLS"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(chosen.state_dir)
    assert load_settings() == chosen
    monkeypatch.setenv("REFINERY_CONFIG", "")
    assert load_settings().ml.training.hyperparameters != {"max_iter": 40}


def test_the_pace_on_real_prices_is_the_one_that_is_documented(settings: Settings, market: DemoWorld) -> None:
    chosen = demo_settings(settings, market).ml
    pace = (chosen.min_new_samples_for_retrain, chosen.training.train_window_days, chosen.training.step_size_days)
    assert pace == (MIN_NEW_SAMPLES, TRAIN_WINDOW_DAYS, STEP_SIZE_DAYS)


@pytest.mark.parametrize(("labels", "days"), [(33, 504), (20, 252)])
def test_a_pace_that_was_set_is_kept_be_it_the_default(
    market: DemoWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labels: int, days: int
) -> None:
    monkeypatch.setenv("REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN", str(labels))
    file = tmp_path / "refinery.toml"
    file.write_text(f"[ml.training]\ntrain_window_days = {days}\n")
    monkeypatch.setenv("REFINERY_CONFIG", str(file))
    chosen = demo_settings(load_settings(), market).ml
    assert (chosen.min_new_samples_for_retrain, chosen.training.train_window_days) == (labels, days)
    assert chosen.training.step_size_days == STEP_SIZE_DAYS


def test_an_earlier_demo_is_deleted_and_its_neighbours_are_not(state_dir: Path) -> None:
    (state_dir / "features.db").write_text("real signals")
    with own_place(state_dir / "demo"):
        (state_dir / "demo" / "features.db").write_text("a demo's signals")
    assert (state_dir / "demo" / "features.db").exists()
    with own_place(state_dir / "demo"):
        assert [path.name for path in (state_dir / "demo").iterdir()] == ["demo.txt"]
        assert (state_dir / "demo").stat().st_mode & 0o777 == 0o700
    assert (state_dir / "features.db").read_text() == "real signals"


def test_a_directory_that_no_demo_made_is_left_alone(state_dir: Path) -> None:
    (state_dir / "demo").mkdir()
    (state_dir / "demo" / "thesis.txt").write_text("the only copy")
    with pytest.raises(ConfigurationError, match="was not made by a demo"), own_place(state_dir / "demo"):
        pass
    assert (state_dir / "demo" / "thesis.txt").exists()


def test_two_demos_do_not_share_a_place(state_dir: Path) -> None:
    refused = pytest.raises(RefineryError, match="another demo is running")
    with own_place(state_dir / "demo"), refused, own_place(state_dir / "demo"):
        pass
    with own_place(state_dir / "demo"):
        pass


def test_a_replay_ends_with_the_day_it_was_given(timeline: tuple[Moment, ...]) -> None:
    day = timeline[5].instant[:10]
    assert list(up_to(timeline, date.fromisoformat(day))) == list(timeline[:6])
    assert up_to(timeline, None) is timeline


def test_a_day_that_is_none_is_refused_before_anything_is_begun(settings: Settings) -> None:
    with pytest.raises(RefineryError, match=r"2006-12-31.*'yesterday'"):
        demo.run(settings, threading.Event(), keep_running=False, until="yesterday")
    assert not (settings.state_dir / "demo").exists()


def test_a_redis_with_data_is_refused_and_left_as_it_was(
    settings: Settings, valkey: redis.Redis, valkey_url: str
) -> None:
    valkey.xadd("signals.created", {"data": b"a real one"})
    elsewhere = settings.model_copy(update={"redis_url": valkey_url})
    with pytest.raises(ConfigurationError, match="wants an empty Redis database"):
        demo.run(elsewhere, threading.Event(), keep_running=False, until="2000-05-01")
    assert valkey.xlen("signals.created") == 1


def test_a_cluster_is_refused_before_anything_is_begun(settings: Settings) -> None:
    cluster = settings.model_copy(update={"redis_url": "redis+cluster://localhost:1"})
    with pytest.raises(ConfigurationError, match="names a cluster: unset it"):
        demo.run(cluster, threading.Event(), keep_running=False)
    assert not (settings.state_dir / "demo").exists()


def test_nothing_is_published_while_a_training_that_has_ended_still_looks_at_what_was_served(
    settings: Settings,
) -> None:
    with open_store(settings) as store:
        assert not learning_goes_on(settings, store)
        with training_lease(settings, store, first=sweep):
            assert learning_goes_on(settings, store)
        assert not learning_goes_on(settings, store)


@pytest.mark.slow
def test_a_demo_that_is_left_up_has_a_console_and_commands_in_its_directory_tell_the_truth(
    tmp_path: Path, settings: Settings
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_CONSOLE_PORT": str(taken.getsockname()[1])}
        environment = {**os.environ, **QUIET, **own}
        command = [*REFINERY, "demo", "--world", "edge", "--until", "2010-01-08"]
        with (tmp_path / "said").open("wb") as said:
            left = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        try:
            _look_around(left, tmp_path / "said", settings.state_dir / "demo", own["REFINERY_CONSOLE_PORT"])
        finally:
            left.send_signal(signal.SIGINT)
    assert left.wait(HANGS_AFTER_S) == 0


def _look_around(left: subprocess.Popen[bytes], said: Path, directory: Path, taken: str) -> None:
    """What a person does whom the demo left everything up for."""
    wait_until(lambda: "has the demo's settings" in said.read_text() or left.poll() is not None)
    [url] = re.findall(r"http://127\.0\.0\.1:\d+", said.read_text())
    assert not url.endswith(f":{taken}")
    wait_until(lambda: _answer(url) == 200)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("REFINERY_")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*REFINERY, "status", "--json"],
        capture_output=True,
        check=True,
        cwd=directory,
        env=plain | {"PYTHONPATH": root},
    )
    told = json.loads(done.stdout)
    assert told["signals"] > 0
    assert all(stream["lag"] == 0 for stream in told["streams"]), "the demo's own server answers"


def _answer(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - our own console
            return int(answer.status)
    except OSError:
        return 0
