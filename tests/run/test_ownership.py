"""One installation handles a stream in a group: another one, a copy, or an empty store in its place is refused."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import redis

from tests.support.composed import free_port
from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, signal
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.errors import ConfigurationError, CopyAtWork
from worker.observability import doctor
from worker.settings.schema import Settings
from worker.state_dir import place_of
from worker.streams import ownership
from worker.supervision.slots import worker_slot

OWNER = f"refinery:owner:{GROUP}@{SIGNALS}"


@pytest.fixture
def first(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> Settings:
    """An installation that has handled a signal."""
    made = settings_for(tmp_path / "first", valkey_url)
    send(valkey, SIGNALS, signal(1))
    with desk(made) as worker:
        worker.drain()
    return made


@pytest.fixture
def second(tmp_path: Path, valkey_url: str, first: Settings) -> Settings:
    """Another state directory on the same server."""
    return settings_for(tmp_path / "second", valkey_url)


@pytest.fixture
def checks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at each minute is looked at each time."""
    monkeypatch.setattr(ownership, "CHECK_EVERY_S", 0.0)


def signals(settings: Settings) -> int:
    with FeatureDatabase(settings.store_place) as store:
        return store.counts().signals


def test_a_worker_beside_another_installation_is_refused_and_makes_no_store(
    first: Settings, second: Settings, valkey: redis.Redis
) -> None:
    gone = f"no store in {second.state_dir}.*{first.state_dir}.*refinery adopt"
    with pytest.raises(ConfigurationError, match=gone), desk(second):
        pass
    assert not second.store_path.exists()
    with FeatureDatabase(second.store_path):
        pass
    other = f"another installation .*{first.state_dir}.*refinery adopt"
    with pytest.raises(ConfigurationError, match=other), desk(second):
        pass
    send(valkey, SIGNALS, signal(2))
    with desk(first) as worker:
        worker.drain()
    assert signals(first) == 2


def test_the_command_says_so_in_one_line(first: Settings, second: Settings) -> None:
    other = Installation(second.state_dir, second.redis_url or "")
    for command, says in (("worker", first.state_dir), ("trainer", first.state_dir), ("retrain", "no store at")):
        done = other.run(command)
        assert done.returncode == 1, command
        assert b"Traceback" not in done.stderr
        assert str(says).encode() in done.stderr.strip().splitlines()[-1]


def test_other_streams_or_another_group_are_another_installations(
    first: Settings, second: Settings, valkey: redis.Redis
) -> None:
    for streams in ({"signals_created": "other.created", "trades_closed": "other.closed"}, {"group": "other"}):
        with desk(settings_for(second.state_dir, second.redis_url or "", streams=streams)):
            pass
    half = settings_for(second.state_dir, second.redis_url or "", streams={"signals_created": "third.created"})
    with pytest.raises(ConfigurationError, match=TRADES), desk(half):
        pass


def test_a_store_that_was_lost_is_not_begun_anew_but_on_purpose(first: Settings, valkey: redis.Redis) -> None:
    for path in first.state_dir.glob("features.db*"):
        path.unlink()
    with pytest.raises(ConfigurationError, match="put it back or restore a backup"), desk(first):
        pass
    assert not first.store_path.exists()
    here = Installation(first.state_dir, first.redis_url or "")
    assert here.run("status").returncode == 0
    assert not first.store_path.exists()
    assert here.document("status")["other_owner"].startswith(f"there is no store in {first.state_dir}")
    assert here.document("adopt")["before"] == [f"{first.state_dir} on {socket.gethostname()}"]
    send(valkey, SIGNALS, signal(2))
    with desk(first) as worker:
        worker.drain()
    assert signals(first) == 1
    assert here.document("status")["other_owner"] is None


@pytest.mark.usefixtures("checks_always")
def test_a_worker_whose_streams_were_adopted_pauses_and_the_other_goes_on(
    first: Settings, second: Settings, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    with desk(first) as worker:
        worker.drain()
        assert Installation(second.state_dir, second.redis_url or "").run("adopt").returncode == 0
        worker.drain(rounds=2)
        send(valkey, SIGNALS, signal(2))
        worker.drain(rounds=3)
        assert signals(first) == 1
        assert any("paused, nothing is lost" in line and str(second.state_dir) in line for line in errors_logged)
        with desk(second) as adopted:
            adopted.drain()
        assert signals(second) == 1
        assert pending(valkey) == 0
        assert [f.verdict for f in doctor.examine(first) if f.part == "installation"] == ["bad"]
        assert [f.verdict for f in doctor.examine(second) if f.part == "installation"] == []


def test_a_copy_of_the_store_waits_for_as_long_as_the_other_works(first: Settings, second: Settings) -> None:
    with worker_slot(first) as named, desk(named):
        shutil.copytree(first.state_dir, second.state_dir)
        with worker_slot(second) as copied, pytest.raises(CopyAtWork, match=str(first.state_dir)), desk(copied):
            pass
    with worker_slot(second) as copied, desk(copied):
        pass
    with worker_slot(first) as named, desk(named):
        pass


def test_the_place_is_held_while_another_worker_of_it_works(
    first: Settings, second: Settings, valkey: redis.Redis
) -> None:
    held = f"refinery:place:{GROUP}@{SIGNALS}"
    with worker_slot(first) as one, desk(one):
        with worker_slot(first) as two, desk(two):
            assert one.consumer != two.consumer
        assert valkey.get(held)
    assert not valkey.get(held)


def test_a_place_is_held_for_three_minutes_after_its_worker_was_killed(
    first: Settings, second: Settings, valkey: redis.Redis
) -> None:
    held = f"refinery:place:{GROUP}@{SIGNALS}"
    shutil.copytree(first.state_dir, second.state_dir)
    valkey.set(held, "of a worker that was killed", px=180_000)
    with pytest.raises(CopyAtWork), desk(second):
        pass
    valkey.pexpire(held, 1)
    wait_until(lambda: not valkey.exists(held))
    with desk(second):
        assert 170_000 < int(valkey.pttl(held)) <= 180_000  # type: ignore[arg-type]


@pytest.mark.usefixtures("checks_always")
def test_after_a_flush_the_streams_are_taken_again(first: Settings, second: Settings, valkey: redis.Redis) -> None:
    with desk(first) as worker:
        worker.drain()
        valkey.flushall()
        worker.drain(rounds=3)
        assert valkey.exists(OWNER)
    with pytest.raises(ConfigurationError), desk(second):
        pass


@pytest.mark.parametrize("garbage", [b"{", b"[" * 5000, b'{"id": 1}', b"\xff\xfe", "a list"])
def test_what_anybody_wrote_there_is_refused_with_a_line_and_adopted_over(
    garbage: bytes | str, first: Settings, valkey: redis.Redis
) -> None:
    valkey.delete(OWNER)
    if isinstance(garbage, str):
        valkey.rpush(OWNER, garbage)
    else:
        valkey.set(OWNER, garbage)
    with pytest.raises(ConfigurationError, match=r"unreadable.*refinery adopt"), desk(first):
        pass
    assert Installation(first.state_dir, first.redis_url or "").run("adopt").returncode == 0
    with desk(first):
        pass


@pytest.mark.parametrize("arguments", [("worker",), ("doctor",)])
def test_control_characters_of_another_program_do_not_reach_the_log(
    arguments: tuple[str, ...], first: Settings, valkey: redis.Redis
) -> None:
    valkey.set(OWNER, '{"id": "x", "host": "\\u001b[2J", "state_dir": "\\n\\nforged"}')
    done = Installation(first.state_dir, first.redis_url or "").run(*arguments)
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert "forged on \\x1b[2J" in told
    assert all(line.isprintable() and not line.startswith("forged") for line in told.split("\n"))


def test_a_user_that_may_not_look_is_told_and_works(
    first: Settings, valkey: redis.Redis, warnings_logged: list[str]
) -> None:
    rights = ["allchannels", "+@all", "~signals.*", "~trades.*", "~rq:*"]
    valkey.execute_command("ACL", "SETUSER", "older", "on", ">secret", *rights)
    try:
        url = (first.redis_url or "").replace("unix://", "unix://older:secret@")
        send(valkey, SIGNALS, signal(2))
        with desk(settings_for(first.state_dir, url)) as worker:
            worker.drain()
        assert signals(first) == 2
    finally:
        valkey.execute_command("ACL", "DELUSER", "older")
    assert any(
        "whether another installation handles the same streams cannot be seen" in line for line in warnings_logged
    )


def test_a_directory_keeps_its_place_where_it_is_moved_and_a_copy_has_another(tmp_path: Path) -> None:
    (tmp_path / "var" / "workers").mkdir(parents=True)
    token = place_of(tmp_path / "var")
    assert place_of(tmp_path / "var") == token
    shutil.copytree(tmp_path / "var", tmp_path / "copy")
    assert place_of(tmp_path / "copy") != token
    (tmp_path / "var").rename(tmp_path / "moved")
    assert place_of(tmp_path / "moved") == token
    (tmp_path / "moved" / "workers" / "place").write_bytes(b"\xff torn")
    assert place_of(tmp_path / "moved") != token


def test_workers_of_two_directories_never_have_one_name(first: Settings, second: Settings) -> None:
    with worker_slot(first) as one, worker_slot(second) as other:
        assert one.consumer != other.consumer
        name = one.consumer
    with worker_slot(first) as again:
        assert again.consumer == name


def test_a_worker_that_waits_says_so_to_whoever_asks(first: Settings, valkey: redis.Redis) -> None:
    port = free_port()
    here = Installation(first.state_dir, first.redis_url or "")
    here.environment["REFINERY_METRICS_PORT"] = str(port)
    process = here.start("worker", "--slot", "0")
    try:
        wait_until(lambda: b"slot-0" in b"".join(p.name.encode() for p in (first.state_dir / "workers").iterdir()))
        send(valkey, SIGNALS, signal(2))
        wait_until(lambda: signals(first) == 2)
        away = first.state_dir.with_name("away")
        first.state_dir.rename(away)
        wait_until(lambda: bool(here.document("status")["waits_for"]))
        status = here.document("status")
        assert "features.db was removed, moved or replaced" in status["waits_for"][0]
        told = [one for one in json.loads(here.run("doctor", "--json").stdout) if one["part"] == "worker"]
        assert [one["verdict"] for one in told] == ["bad"]
        away.rename(first.state_dir)
        wait_until(lambda: not here.document("status")["waits_for"])
    finally:
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0
