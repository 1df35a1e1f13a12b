"""What arguments of XADD can do to a stream is told: entries gone before a worker read them, and ids far ahead."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from tests.support.composed import servers
from tests.support.desk import desk, scored, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, signal
from tests.support.real_processes import Installation
from tests.support.servers import ServerOf
from worker.installation import open_store
from worker.observability import doctor
from worker.observability.metrics import MetricsServer
from worker.streams.losses import StreamWatch
from worker.streams.maintenance import trim_handled
from worker.streams.state import stream_states

LAST = 2**64 - 1
DAY_MS = 86_400_000


@pytest.fixture(params=servers(), ids=lambda path: path.name)
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[redis.Redis]:
    """A client of each make of server: they count differently what a group has read."""
    with ServerOf(tmp_path / "server", binary=request.param) as server, redis.Redis.from_url(server.url) as client:
        yield client


class Stream:
    """One stream with its group and its watch, filled and read step by step."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        client.xgroup_create(SIGNALS, GROUP, id="0", mkstream=True)
        self.watch = StreamWatch(client, [SIGNALS], GROUP)
        self.watch.look()

    def add(self, number: int, **arguments: Any) -> None:
        for _ in range(number):
            self.client.xadd(SIGNALS, {"data": b"x"}, **arguments)

    def keep(self, newest: int) -> None:
        """What a producer does who says MAXLEN: the one entry that it adds is among those kept."""
        self.add(1, maxlen=newest, approximate=False)

    def read(self, most: int) -> None:
        found: Any = self.client.xreadgroup(GROUP, "me", {SIGNALS: ">"}, count=most)
        ids = [entry_id for _, rows in found for entry_id, _ in rows]
        assert len(ids) == most
        self.client.xack(SIGNALS, GROUP, *ids)

    def gone(self) -> int:
        self.watch.look()
        [state] = stream_states(self.client, [SIGNALS], GROUP)
        return state.unread_gone


def test_entries_that_nobody_had_read_are_counted_when_they_are_gone(
    any_server: redis.Redis, errors_logged: list[str]
) -> None:
    stream = Stream(any_server)
    stream.add(9)
    stream.keep(4)  # before the group has read anything
    assert stream.gone() == 6
    stream.read(2)
    assert stream.gone() == 6
    stream.add(7)
    stream.keep(2)  # two that were not read before, and six that came
    assert stream.gone() == 6 + 8
    stream.keep(0)
    assert stream.gone() == 6 + 8 + 3
    stream.add(2)
    stream.read(2)
    stream.add(1)
    assert stream.gone() == 17
    stream.keep(1)
    assert stream.gone() == 18
    told = [int(line.split()[0]) for line in errors_logged]
    assert told == [6, 8, 3, 1]
    assert errors_logged[0].startswith(f"6 entries of {SIGNALS} were trimmed or deleted by somebody before a worker")


def test_looking_again_tells_nothing_again_and_neither_does_another_worker(
    any_server: redis.Redis, errors_logged: list[str]
) -> None:
    stream = Stream(any_server)
    stream.add(5)
    stream.read(1)
    stream.keep(1)
    for _ in range(3):
        stream.watch.look()
        StreamWatch(any_server, [SIGNALS], GROUP).look()
    assert len(errors_logged) == 1


def test_what_every_group_has_handled_may_go(any_server: redis.Redis, errors_logged: list[str]) -> None:
    """By our own trimming, and by a producer's that takes no more than that."""
    stream = Stream(any_server)
    for number in (3, 5, 1):
        stream.add(number)
        stream.read(number)
        assert stream.gone() == 0
        assert trim_handled(any_server, [SIGNALS], older_than_s=-10) == number
        assert stream.gone() == 0
    stream.add(6)
    stream.read(4)
    stream.keep(3)
    assert stream.gone() == 0
    trim_handled(any_server, [SIGNALS], older_than_s=-10)
    assert stream.gone() == 0
    stream.read(3)
    assert stream.gone() == 0
    assert errors_logged == []


def test_a_group_that_is_made_again_misses_nothing_of_what_went_before_it(
    any_server: redis.Redis, errors_logged: list[str]
) -> None:
    stream = Stream(any_server)
    stream.add(50)
    stream.read(50)
    assert stream.gone() == 0
    trim_handled(any_server, [SIGNALS], older_than_s=-10)
    stream.add(3)
    any_server.xgroup_destroy(SIGNALS, GROUP)
    assert stream.gone() == 0
    any_server.xgroup_create(SIGNALS, GROUP, id="0")
    assert stream.gone() == 0
    stream.keep(2)
    assert stream.gone() == 2
    stream.read(2)
    assert stream.gone() == 2
    any_server.delete(SIGNALS)
    assert stream.gone() == 2
    assert len(errors_logged) == 1


def test_a_worker_that_starts_looks_before_it_reads(
    any_server: redis.Redis, tmp_path: Path, errors_logged: list[str]
) -> None:
    url = f"unix://{any_server.connection_pool.connection_kwargs['path']}"
    settings = settings_for(tmp_path / "var", url)
    with desk(settings) as world:
        send(any_server, SIGNALS, signal(1))
        world.drain()
    for number in range(2, 12):
        send(any_server, SIGNALS, signal(number))
    any_server.xtrim(SIGNALS, maxlen=4, approximate=False)
    with desk(settings) as world:
        world.drain()
        assert len(scored(any_server)) == 5
        assert world.states()[0].unread_gone == 6
    assert len(errors_logged) == 1


@pytest.fixture
def trimmed(valkey: redis.Redis) -> redis.Redis:
    stream = Stream(valkey)
    valkey.xgroup_create(TRADES, GROUP, id="0", mkstream=True)
    stream.add(5)
    stream.keep(1)
    stream.watch.look()
    valkey.xadd(TRADES, {"data": b"x"}, id=f"{int(time.time() * 1000) + DAY_MS}-0")
    StreamWatch(valkey, [TRADES], GROUP).look()
    return valkey


def test_status_doctor_and_metrics_tell_it(
    trimmed: redis.Redis, installation: Installation, valkey_url: str, tmp_path: Path
) -> None:
    told = installation.run("status").stdout.decode()
    assert f"5 entries of {SIGNALS} were trimmed or deleted by somebody before a worker had read them" in told
    assert f"{TRADES} holds an id 24 h ahead of our clock" in told
    signals, trades = installation.document("status")["streams"]
    assert (signals["unread_gone"], signals["ahead_s"], trades["unread_gone"]) == (5, 0.0, 0)
    assert trades["ahead_s"] == pytest.approx(86_400, abs=700)

    settings = settings_for(installation.state_dir, valkey_url)
    said = {finding.says: finding for finding in doctor.examine(settings) if finding.part == "redis"}
    wrong = [finding for finding in said.values() if finding.verdict == "bad"]
    assert len(wrong) == 2
    assert all("docs/operations.md" in finding.advice for finding in wrong)

    open_store(settings).close()
    registry = CollectorRegistry()
    server = MetricsServer(settings, valkey_url, port=0, registry=registry, loop=None)
    value = registry.get_sample_value
    assert value("refinery_stream_unread_gone_total", {"stream": SIGNALS}) == 5
    assert value("refinery_stream_unread_gone_total", {"stream": TRADES}) == 0
    assert value("refinery_stream_ahead_seconds", {"stream": SIGNALS}) == 0
    assert value("refinery_stream_ahead_seconds", {"stream": TRADES}) == pytest.approx(86_400, abs=700)
    server.stop()


def test_an_id_far_ahead_is_told_once_until_it_is_so_no_more(valkey: redis.Redis, errors_logged: list[str]) -> None:
    stream = Stream(valkey)
    soon, far = (int(time.time() * 1000) + ms for ms in (60_000, 2 * DAY_MS))
    stream.add(1, id=f"{soon}-0")
    stream.watch.look()
    assert errors_logged == []
    stream.add(1, id=f"{far}-0")
    stream.watch.look()
    stream.add(3)
    stream.watch.look()
    assert len(errors_logged) == 1
    assert "holds an id 48 h ahead" in errors_logged[0]
    valkey.delete(SIGNALS)
    valkey.xgroup_create(SIGNALS, GROUP, id="0", mkstream=True)
    stream.watch.look()
    [state] = stream_states(valkey, [SIGNALS], GROUP)
    assert state.ahead_s == 0
    stream.add(1, id=f"{far}-0")
    stream.watch.look()
    assert len(errors_logged) == 2


def test_a_stream_at_its_end_is_told_and_what_it_holds_is_handled(
    valkey: redis.Redis, valkey_url: str, tmp_path: Path, errors_logged: list[str]
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url, input_retention_hours=1)
    with desk(settings) as world:
        valkey.xadd(SIGNALS, {"data": json.dumps(signal(1))}, id=f"{LAST}-{LAST}")
        handled = world.drain()
    assert (handled.signals, handled.dead_lettered) == (1, 0)
    with pytest.raises(redis.ResponseError, match="exhausted"):
        send(valkey, SIGNALS, signal(2))
    with desk(settings) as world:
        world.drain()
    assert errors_logged == [f"{SIGNALS} holds the last id there is, and Redis takes no more entries of it"]
    assert trim_handled(valkey, [SIGNALS], older_than_s=0) == 0


@pytest.mark.parametrize("sequence", [2**53 + 1, 2**60 - 1, 2**63 + 1, 9_999_999_999_999_999_999, 0, 9, 99])
def test_trimming_is_exact_for_ids_that_numbers_of_scripts_do_not_hold(valkey: redis.Redis, sequence: int) -> None:
    stream = Stream(valkey)
    for number in range(3):
        stream.add(1, id=f"5-{sequence + number}")
    stream.read(2)
    assert trim_handled(valkey, [SIGNALS], older_than_s=0) == 2
    assert valkey.xlen(SIGNALS) == 1
    stream.read(1)
    assert trim_handled(valkey, [SIGNALS], older_than_s=0) == 1


def test_a_record_that_somebody_else_wrote_stops_nothing(
    valkey: redis.Redis, valkey_url: str, warnings_logged: list[str]
) -> None:
    stream = Stream(valkey)
    key = f"refinery:noticed:{GROUP}@{SIGNALS}"
    for garbage in ({"gone": "many"}, {"at": "9" * 40, "gone": "1"}, {"last_id": "x-y"}, {"last_id": f"{2**70}-0"}):
        valkey.delete(key)
        valkey.hset(key, mapping=garbage)
        [state] = stream_states(valkey, [SIGNALS], GROUP)
        assert (state.unread_gone, state.ahead_s) == (0, 0.0)
    valkey.set(key, "no hash")
    [state] = stream_states(valkey, [SIGNALS], GROUP)
    assert state.unread_gone == 0
    stream.watch.look()
    stream.watch.look()
    assert len(warnings_logged) == 1
