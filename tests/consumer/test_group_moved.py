"""A group that an operator moved: back, and nothing has its effect twice; on, and what nobody read is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis

from tests.support.composed import servers
from tests.support.desk import desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, outcome, signal
from tests.support.servers import ServerOf
from trading_system.ml_refinement.storage.times import utc_now
from worker.consumer import passed_over
from worker.observability import doctor
from worker.observability.status import read_status
from worker.streams import losses
from worker.streams.losses import stream_troubles
from worker.streams.state import stream_states


@pytest.fixture(params=servers(), ids=lambda path: path.name)
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ServerOf(tmp_path / "server", binary=request.param) as server:
        yield server.url


def back_to_the_start(client: redis.Redis, stream: str) -> None:
    client.xgroup_setid(stream, GROUP, id="0")


def back_with_a_count(client: redis.Redis, stream: str) -> None:
    client.xgroup_setid(stream, GROUP, id="0", entries_read=0)


def made_anew(client: redis.Redis, stream: str) -> None:
    client.xgroup_destroy(stream, GROUP)
    client.xgroup_create(stream, GROUP, id="0")


def to_the_end(client: redis.Redis, stream: str) -> None:
    client.xgroup_setid(stream, GROUP, id="$")


def made_anew_at_the_end(client: redis.Redis, stream: str) -> None:
    client.xgroup_destroy(stream, GROUP)
    client.xgroup_create(stream, GROUP, id="$")


def troubles(client: redis.Redis) -> list[str]:
    states = stream_states(client, (SIGNALS, TRADES), GROUP)
    return [f"{says}: {advice}" for says, advice in stream_troubles(states, now=utc_now())]


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at each minute is looked at after each batch."""
    monkeypatch.setattr(passed_over, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(losses, "_LOOK_EVERY_S", 0.0)


@pytest.mark.parametrize("move", [back_to_the_start, back_with_a_count, made_anew])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_group_that_is_moved_back_reads_everything_again_and_nothing_has_its_effect_twice(
    move: Callable[[redis.Redis, str], None], slots: int, any_server: str, tmp_path: Path, errors_logged: list[str]
) -> None:
    with redis.Redis.from_url(any_server) as client:
        with desk(settings_for(tmp_path, any_server)) as worker:
            for number in range(5):
                send(client, SIGNALS, signal(number))
                send(client, TRADES, outcome(number))
            send(client, SIGNALS, signal(3))
            send(client, SIGNALS, b"no event")
            worker.drain()
            before, answers = worker.store.counts(), scored(client)
            assert (before.signals, before.outcomes, before.duplicates, before.dead_letters) == (5, 5, 1, 1)
        for slot in range(slots):
            for stream in (SIGNALS, TRADES):
                move(client, stream)
            with desk(settings_for(tmp_path, any_server, consumer_slot=slot)) as worker:
                handled = worker.drain()
                assert handled.redelivered == 12
                assert (handled.signals, handled.outcomes, handled.duplicates, handled.dead_lettered) == (0, 0, 0, 0)
                assert worker.store.counts() == before
            again = scored(client)[len(answers) * (slot + 1) :]
            assert {answer["signal_id"]: answer for answer in again} == {one["signal_id"]: one for one in answers}
        assert pending(client) == 0
        assert troubles(client) == []
    assert errors_logged == []


@pytest.mark.parametrize("move", [to_the_end, made_anew_at_the_end])
@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_what_a_group_was_moved_past_is_told_until_it_is_read(
    running: bool,
    archive: bool,
    move: Callable[[redis.Redis, str], None],
    any_server: str,
    tmp_path: Path,
    errors_logged: list[str],
) -> None:
    settings = settings_for(tmp_path, any_server, archive={"enabled": archive})
    with redis.Redis.from_url(any_server) as client:

        def skip() -> str:
            for number in range(3, 6):
                last = send(client, SIGNALS, signal(number))
            move(client, SIGNALS)
            send(client, SIGNALS, signal(6))
            return last

        with desk(settings) as worker:
            for number in range(3):
                before = send(client, SIGNALS, signal(number))
            worker.drain()
            assert (errors_logged, troubles(client)) == ([], [])
            if running:
                last = skip()
                worker.drain()
        if not running:
            before, last = "0-0", skip()
        with desk(settings) as worker:
            for number in (7, 8):
                send(client, SIGNALS, signal(number))
                worker.drain()
            assert worker.store.counts().signals == 6
            [told] = troubles(client)
            assert told.startswith(f"entries of {SIGNALS} up to {last} were never read: somebody moved the group past")
            assert errors_logged == [told]
            command = re.search("`(.*)`", told)
            assert command is not None
            assert command[1] == f"XGROUP SETID {SIGNALS} {GROUP} {before}"
            assert told in [f"{one.says}: {one.advice}" for one in doctor.examine(settings)]
            said = orjson.loads(orjson.dumps(read_status(settings, worker.store, client).to_json()))
            assert said["streams"][0]["passed_over"] == {"last": last, "before": before}
            client.execute_command(command[1])
            worker.drain()
            worker.drain(rounds=1)
            counts = worker.store.counts()
            assert (counts.signals, counts.duplicates, counts.dead_letters) == (9, 0, 0)
            assert troubles(client) == []
    assert len(errors_logged) == 1


def test_what_several_workers_read_between_them_was_passed_over_by_none(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    """Some of it is handled, and some is in the other worker's hands."""
    with (
        desk(settings_for(tmp_path, valkey_url, batch_size=2)) as one,
        desk(settings_for(tmp_path, valkey_url, batch_size=2, consumer_slot=1)) as other,
    ):
        for number in range(30):
            send(valkey, SIGNALS, signal(number))
        for number in range(8):
            one.drain(rounds=2)
            other.drain(rounds=2)
            if number % 3 == 0:
                valkey.xreadgroup(GROUP, "a third", {SIGNALS: ">"}, count=1)
        one.drain(rounds=3)
        in_hand = pending(valkey)
        assert in_hand >= 1
        assert one.store.counts().signals == 30 - in_hand
    assert (errors_logged, troubles(valkey)) == ([], [])
