"""A store that is not where it was: nothing is acknowledged until it is back. An archive goes on with what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, signal
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase, SqliteConnection

pytestmark = pytest.mark.sqlite_file


def _removed(state: Path) -> None:
    for path in state.glob("features.db*"):
        path.unlink()


def _moved(state: Path) -> None:
    state.rename(state.with_name("elsewhere"))


def _replaced(state: Path) -> None:
    _moved(state)
    with FeatureDatabase(state / "features.db"), EventArchive(state / "events.db"):
        pass


@pytest.mark.parametrize("displaced", [_removed, _moved, _replaced, shutil.rmtree])
def test_nothing_is_acknowledged_into_a_store_that_is_not_there(
    displaced: object, tmp_path: Path, valkey_url: str, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    send(valkey, SIGNALS, signal(1))
    with desk(settings) as worker:
        worker.drain()
        displaced(settings.state_dir)  # type: ignore[operator]
        there = settings.state_dir.exists() and sorted(path.name for path in settings.state_dir.iterdir())
        for number in range(2, 6):
            send(valkey, SIGNALS, signal(number))
        worker.drain(rounds=6)
        assert pending(valkey) == 4
        assert (settings.state_dir.exists() and sorted(path.name for path in settings.state_dir.iterdir())) == there
    assert any(
        line.startswith("paused, nothing is lost: ") and "features.db was removed" in line for line in errors_logged
    )


def test_a_directory_that_is_moved_back_is_gone_on_with(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    send(valkey, SIGNALS, signal(1))
    with desk(settings) as worker:
        worker.drain()
        _moved(settings.state_dir)
        send(valkey, SIGNALS, signal(2))
        worker.drain(rounds=6)
        tmp_path.joinpath("elsewhere").rename(settings.state_dir)
        worker.drain()
        assert pending(valkey) == 0
    with FeatureDatabase(settings.store_place) as store:
        assert store.counts().signals == 2


def test_an_idle_worker_notices_too(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    send(valkey, SIGNALS, signal(1))
    with desk(settings) as worker:
        worker.drain()
        _removed(settings.state_dir)
        worker.drain(rounds=1)
    assert any("features.db was removed" in line for line in errors_logged)


def test_an_archive_that_was_removed_is_begun_anew(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    """To make room, as the way out of a full disk says."""
    settings = settings_for(tmp_path / "var", valkey_url)
    send(valkey, SIGNALS, signal(1))
    with desk(settings) as worker:
        worker.drain()
        for path in settings.state_dir.glob("events.db*"):
            path.unlink()
        send(valkey, SIGNALS, signal(2))
        worker.drain()
        assert pending(valkey) == 0
    archive = SqliteConnection(settings.archive_path, read_only=True)
    assert archive.query("SELECT count(*) FROM events") == [(1,)]
    archive.close()
    assert [line for line in errors_logged if "events.db was removed" in line]
