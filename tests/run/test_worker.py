"""A worker that starts while its own side is unwell waits for it; what waiting does not help against ends the start."""

from __future__ import annotations

import errno
import os
import signal as signals
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.desk import pending, scored, send, settings_for
from tests.support.disk import Disk, DiskPlan
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.waiting import HANGS_AFTER_S, join, wait_until
from trading_system.ml_refinement.storage import (
    FeatureDatabase,
    SchemaMismatch,
    SqliteConnection,
    StoreDamaged,
    StoreUnavailable as Unavailable,
)
from trading_system.ml_refinement.storage.postgres import connection as postgres
from worker import app
from worker.consumer.batch_handler import BatchResult
from worker.consumer.loop import Consumer
from worker.errors import ConfigurationError, StopRequested
from worker.redis_server.connection import connect
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import Settings
from worker.supervision.backoff import Backoff, StartRetry

QUICK = (0.01, 0.05)


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    return settings_for(tmp_path / "var", valkey_url)


@contextmanager
def started(settings: Settings, stop: threading.Event) -> Iterator[Consumer]:
    retry = StartRetry(stop, backoff=Backoff(*QUICK))
    with (
        connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=lambda *_: None, retry=retry) as consumer,
    ):
        yield consumer


def handle_one(consumer: Consumer, valkey: redis.Redis) -> None:
    """Let the started worker show that it works."""
    send(valkey, SIGNALS, signal(1))
    stop = threading.Event()
    running = threading.Thread(target=consumer.run, args=(stop,))
    running.start()
    wait_until(lambda: scored(valkey))
    stop.set()
    join(running)


@pytest.mark.sqlite_file
@pytest.mark.parametrize("file", ["features.db", "events.db"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_at_the_start_is_waited_for_and_told_of_once(
    file: str, error: str, settings: Settings, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    plan = DiskPlan("write", 1, error, times=6, suffix=(file, f"{file}-wal"))
    disk = Disk([plan])
    try:
        with started(settings, threading.Event()) as consumer:
            assert plan.failed == 6
            handle_one(consumer, valkey)
    finally:
        disk.close()
    assert [line.startswith("waiting to start, nothing is lost") for line in errors_logged] == [True]


def test_a_store_that_is_locked_at_the_start_is_waited_for(
    settings: Settings, valkey: redis.Redis, errors_logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SqliteConnection.__init__, "__kwdefaults__", {**SqliteConnection.__init__.__kwdefaults__, "busy_timeout_ms": 20}
    )
    monkeypatch.setattr(postgres, "_LOCK_WAIT_MS", 20)
    monkeypatch.setattr(postgres, "_IDLE_WRITER_MS", 1000 * int(HANGS_AFTER_S))
    held = threading.Event()

    def hold() -> None:
        with FeatureDatabase(settings.store_place) as store, store.atomic():
            held.set()
            wait_until(lambda: errors_logged)

    holder = threading.Thread(target=hold)
    holder.start()
    wait_until(held.is_set)
    with started(settings, threading.Event()) as consumer:
        handle_one(consumer, valkey)
    join(holder)
    assert len(errors_logged) == 1


@pytest.mark.sqlite_file
def test_being_told_to_stop_ends_the_waiting_and_opens_nothing(settings: Settings) -> None:
    disk = Disk([DiskPlan("write", 1, "ENOSPC", times=10**9)])
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    try:
        with pytest.raises(StopRequested), started(settings, stop):
            pass
    finally:
        disk.close()


@pytest.mark.parametrize(("error", "passes"), [(errno.EROFS, True), (errno.ENOSPC, True), (errno.EACCES, False)])
def test_a_disk_that_is_full_or_read_only_for_now_may_pass_and_a_wrong_path_does_not(error: int, passes: bool) -> None:
    tries = iter([OSError(error, os.strerror(error)), None])

    def attempt() -> str:
        if (raised := next(tries)) is not None:
            raise raised
        return "found"

    retry = StartRetry(threading.Event(), backoff=Backoff(*QUICK))
    if passes:
        assert retry.until_possible(attempt) == "found"
    else:
        with pytest.raises(ConfigurationError, match=r"cannot start: .* Permission denied"):
            retry.until_possible(attempt)


@pytest.mark.sqlite_file
def test_what_waiting_does_not_help_against_ends_the_start_at_once(settings: Settings) -> None:
    never = threading.Event()
    settings.store_path.parent.mkdir()
    settings.store_path.write_bytes(b"no database at all " * 500)
    with pytest.raises(StoreDamaged), started(settings, never):
        pass
    settings.store_path.unlink()
    settings.store_path.mkdir()
    with pytest.raises(StoreDamaged, match="directory"), started(settings, never):
        pass
    settings.store_path.rmdir()
    settings.models_dir.write_text("a file where the directory of models belongs")
    with pytest.raises(ConfigurationError, match="models"), started(settings, never):
        pass
    settings.models_dir.unlink()
    with FeatureDatabase(settings.store_place) as store:
        store.connection.run("INSERT INTO ml_schema_migrations VALUES (999, '')")
    with pytest.raises(SchemaMismatch, match="999"), started(settings, never):
        pass


def test_a_store_that_cannot_be_read_between_two_batches_is_a_pause(
    settings: Settings, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    """What looks whether a retraining is due reads the store, and a fault there is no reason to end."""
    failures = 3

    def after_batch(_: FeatureDatabase, handled: BatchResult) -> None:
        nonlocal failures
        if handled.signals and failures:
            failures -= 1
            raise Unavailable("disk I/O error")

    with (
        connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=after_batch) as consumer,
    ):
        consumer._backoff = Backoff(*QUICK)
        handle_one(consumer, valkey)
        assert failures == 2
    assert pending(valkey) == 0
    assert ["the store cannot be read" in line for line in errors_logged] == [True]


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), "it ended without a word of it"


@contextmanager
def worker_process(state: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        "REFINERY_REDIS_URL": url,
        "REFINERY_STATE_DIR": str(state),
        "REFINERY_METRICS_PORT": "0",
        "REFINERY_BLOCK_MS": "50",
        "REFINERY_SHUTDOWN_GRACE_S": "3600",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "worker"], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_starts_before_its_server_waits_for_it_and_works(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "valkey", join=False)
    address = f"unix://{tmp_path / 'valkey' / 'valkey.sock'}"
    with worker_process(tmp_path / "var", address) as process:
        wait_for_line(process, "waiting to start")
        with server, redis.Redis.from_url(server.url) as client:
            assert server.url == address
            send(client, SIGNALS, signal(1))
            send(client, TRADES, outcome(1))
            wait_until(lambda: scored(client) and not pending(client))
            process.send_signal(signals.SIGTERM)
            _, logged = process.communicate(timeout=HANGS_AFTER_S)
            assert process.returncode == 0
    assert "waiting to start" not in logged


@pytest.mark.sqlite_file
def test_sigterm_ends_a_worker_that_waits_for_its_store_with_a_clean_exit(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    state = tmp_path / "var"
    with FeatureDatabase(state / "features.db") as store:
        store.connection.run(
            "DELETE FROM ml_schema_migrations WHERE version = (SELECT max(version) FROM ml_schema_migrations)"
        )
        with store.atomic(), worker_process(state, valkey_url) as process:
            wait_for_line(process, "waiting to start")
            process.send_signal(signals.SIGTERM)
            assert process.wait(HANGS_AFTER_S) == 0
    assert not valkey.exists(SIGNALS)
