"""The gateway on real connections and a real server: an answer is a promise, and nobody's connection is another's."""

from __future__ import annotations

import json
import os
import re
import signal as signals
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import redis

from tests.support.desk import desk, scored, settings_for
from tests.support.events import SIGNALS, STREAMS, TRADES, bars, outcome, signal
from tests.support.real_processes import REFINERY, Installation
from tests.support.servers import Replicated
from tests.support.waiting import HANGS_AFTER_S, join, wait_until
from worker.errors import ConfigurationError, ServerBusy
from worker.events.decoding import Limits
from worker.gateway.door import Door
from worker.gateway.listener import Gateway, listening
from worker.gateway.sender import Sender
from worker.redis_server.connection import connect

EVENTS = Path(__file__).parents[2] / "docs" / "events.md"


class Producer:
    """A connection as any language opens one."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(HANGS_AFTER_S)
        self.socket.connect(str(path))
        self.answers = self.socket.makefile("rb")

    def send(self, *lines: bytes) -> None:
        self.socket.sendall(b"".join(line + b"\n" for line in lines))

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def ask(self, *lines: bytes) -> list[dict[str, Any]]:
        self.send(*lines)
        return [self.answer() for _ in lines]

    def is_closed(self) -> bool:
        return self.answers.read() == b""

    def close(self) -> None:
        self.answers.close()
        self.socket.close()


class Running:
    """A gateway in this process, and its way to stop."""

    def __init__(self, path: Path, stop: threading.Event, thread: threading.Thread, grace: list[float]) -> None:
        self.path, self.stop, self.thread, self.grace = path, stop, thread, grace

    def connect(self) -> Producer:
        return Producer(self.path)

    def end(self) -> None:
        self.stop.set()
        join(self.thread)


@contextmanager
def gateway(
    path: Path, url: str, *, most: int = 256, idle_s: float = 600.0, limits: Limits | None = None
) -> Iterator[Running]:
    stop = threading.Event()
    grace = [HANGS_AFTER_S]
    with connect(url) as client, listening(path, group=None) as listener:
        door = Door(STREAMS, limits or Limits(), lambda: datetime.now(UTC))
        serving = Gateway(listener, door, Sender(client, stop), most_connections=most, idle_s=idle_s)

        def run() -> None:
            serving.serve(stop)
            serving.drain(grace_s=grace[0])

        thread = threading.Thread(target=run)
        thread.start()
        running = Running(path, stop, thread, grace)
        try:
            yield running
        finally:
            running.end()


@pytest.fixture
def running(tmp_path: Path, valkey_url: str) -> Iterator[Running]:
    with gateway(tmp_path / "gateway.sock", valkey_url) as one:
        yield one


def line(kind: str = "signal.created", **event: Any) -> bytes:
    return orjson.dumps({"type": kind, **event})


def good(number: int, **changes: Any) -> bytes:
    return line(**signal(number, **changes))


def stored(valkey: redis.Redis, stream: str = SIGNALS) -> list[str]:
    rows: Any = valkey.xrange(stream)
    return [orjson.loads(fields[b"data"])["signal_id"] for _, fields in rows]


def test_each_line_is_answered_in_order_with_its_place_or_with_the_workers_own_reason(
    running: Running, valkey: redis.Redis
) -> None:
    producer = running.connect()
    late = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    lines = [
        good(1),
        b"not an event",
        line("trade.closed", **outcome(1)),
        good(2, timestamp=late),
        good(3, technical_score=11),
        line("signal.scored", signal_id="s"),
        b"",
        b'{"type": "trade.closed", "signal_id": "a", "signal_id": "b"}',
        good(4),
    ]
    producer.send(*lines)
    answers = [producer.answer() for one in lines if one]
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert [answer.get("reason", answer["status"]) for answer in answers] == [
        "accepted", "bad_json", "accepted", "future_timestamp", "schema", "schema", "duplicate_key", "accepted",
    ]  # fmt: skip
    ids: Any = [entry_id.decode() for entry_id, _ in valkey.xrange(SIGNALS)]
    assert [(answers[at]["stream"], answers[at]["entry_id"]) for at in (0, 7)] == [(SIGNALS, one) for one in ids]
    assert answers[2]["stream"] == TRADES
    assert "technical_score" in answers[4]["detail"]
    assert stored(valkey) == ["s-1", "s-4"]
    assert stored(valkey, TRADES) == ["s-1"]
    rows: Any = valkey.xrange(SIGNALS)
    assert "type" not in orjson.loads(rows[0][1][b"data"])


def test_a_producer_that_ends_its_sending_gets_all_answers_also_for_a_last_line_without_an_end(
    running: Running, valkey: redis.Redis
) -> None:
    producer = running.connect()

    def send() -> None:
        producer.socket.sendall(b"\n".join(good(number) for number in range(700)))
        producer.socket.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    answers = [json.loads(one) for one in producer.answers]
    join(sending)
    assert [answer["status"] for answer in answers] == ["accepted"] * 700
    assert stored(valkey) == [f"s-{number}" for number in range(700)]


def fill(producer: Producer) -> None:
    """Send and read no answers, until nothing more is taken."""
    producer.socket.settimeout(0.2)
    while True:
        try:
            producer.socket.sendall(b"{}\n" * 10_000)
        except TimeoutError:
            return


def test_garbage_a_line_of_200_mb_and_slow_producers_hold_up_nobody(running: Running, valkey: redis.Redis) -> None:
    memory = psutil.Process()
    idle = [running.connect() for _ in range(200)]
    slow, unread, garbage, endless = (running.connect() for _ in range(4))
    slow.socket.sendall(b'{"type": "signal.cre')
    fill(unread)
    garbage.send(os.urandom(500_000).replace(b"\n", b" "))
    before = memory.memory_info().rss
    for _ in range(200):
        endless.socket.sendall(b"x" * 1_000_000)
    grown = memory.memory_info().rss - before
    producer = running.connect()
    assert [answer["status"] for answer in producer.ask(good(1), good(2))] == ["accepted"] * 2
    assert garbage.answer()["reason"] in ("bad_encoding", "bad_json")
    endless.send(b"")
    assert endless.answer() == {
        "line": 1,
        "status": "refused",
        "reason": "too_large",
        "detail": "a line of more than 1049600 bytes",
    }
    assert endless.ask(good(3))[0] | {"entry_id": ""} == {
        "line": 2,
        "status": "accepted",
        "stream": SIGNALS,
        "entry_id": "",
    }
    slow.socket.sendall(b'ated"}\n')
    assert slow.answer()["reason"] == "schema"
    assert idle[-1].ask(good(4))[0]["status"] == "accepted"
    assert stored(valkey) == ["s-1", "s-2", "s-3", "s-4"]
    assert grown < 50_000_000
    for one in (*idle, slow, unread, garbage, endless, producer):
        one.close()


@pytest.mark.parametrize("more", [0, 1])
def test_an_event_may_have_as_many_bytes_as_the_worker_takes_and_no_more(
    more: int, tmp_path: Path, valkey_url: str
) -> None:
    event = signal(1, note="")
    event["note"] = "x" * (4096 - len(orjson.dumps(event)) + more) if len(orjson.dumps(event)) < 4096 else ""
    limit = len(orjson.dumps(event)) - more
    with gateway(tmp_path / "s", valkey_url, limits=Limits(max_bytes=limit)) as running:
        [answer] = running.connect().ask(line(**event))
        assert answer.get("reason", "accepted") == ("too_large" if more else "accepted")


def takes_one_more(running: Running) -> bool:
    try:
        return running.connect().ask(good(3))[0]["status"] == "accepted"
    except OSError:  # closed while the event was being written
        return False


def test_more_connections_than_allowed_are_told_so_and_room_is_given_back(tmp_path: Path, valkey_url: str) -> None:
    with gateway(tmp_path / "s", valkey_url, most=2) as running:
        first, second, third = (running.connect() for _ in range(3))
        assert third.answer() == {"status": "closed", "detail": "there are 2 connections already"}
        assert third.is_closed()
        assert first.ask(good(1))[0]["status"] == second.ask(good(2))[0]["status"] == "accepted"
        first.close()
        wait_until(lambda: takes_one_more(running))


def test_a_connection_without_a_whole_line_is_closed_in_time_however_it_trickles(
    tmp_path: Path, valkey_url: str
) -> None:
    with gateway(tmp_path / "s", valkey_url, idle_s=0.5) as running:
        silent, trickling = running.connect(), running.connect()
        ended = threading.Event()

        def trickle() -> None:
            try:
                while not ended.wait(0.05):
                    trickling.socket.sendall(b"x")
            except OSError:
                ended.set()

        thread = threading.Thread(target=trickle)
        thread.start()
        for one in (silent, trickling):
            assert one.answer() == {"status": "closed", "detail": "no whole line came for 0.5 s"}
        join(thread)
        assert ended.is_set()


def test_while_redis_is_away_nothing_is_answered_and_all_is_when_it_is_back(
    tmp_path: Path, errors_logged: list[str]
) -> None:
    server = Replicated(tmp_path / "valkey")
    server.start()
    try:
        with gateway(tmp_path / "s", f"unix://{server.socket}") as running:
            assert running.connect().ask(good(0))[0]["status"] == "accepted"
            server.kill()
            waiting = [running.connect() for _ in range(3)]
            for number, producer in enumerate(waiting, start=1):
                producer.send(good(number), b"{")
            gone = running.connect()
            gone.send(good(9))
            wait_until(lambda: errors_logged)
            for producer in waiting:
                producer.socket.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    producer.socket.recv(1)
                producer.socket.settimeout(HANGS_AFTER_S)
            gone.close()
            server.start()
            for producer in waiting:
                with producer.socket.makefile("rb") as answers:
                    assert json.loads(answers.readline())["status"] == "accepted"
                    assert json.loads(answers.readline())["reason"] == "bad_json"
            assert {"s-1", "s-2", "s-3"} <= set(stored(server.client))
    finally:
        server.kill()
    assert len(errors_logged) <= 2, (
        "a cause is told once, for all connections: the broken connection, the missing server"
    )
    assert all(told.startswith("events wait, and none is answered: Redis") for told in errors_logged)


def test_a_stream_that_takes_nothing_keeps_only_its_own_events_waiting_and_repeats_none(
    running: Running, valkey: redis.Redis
) -> None:
    valkey.set(TRADES, "somebody's")
    producer = running.connect()
    producer.send(good(1), line("trade.closed", **outcome(1)), good(2))
    wait_until(lambda: valkey.exists(SIGNALS) and len(stored(valkey)) == 2)
    assert running.connect().ask(good(3))[0]["status"] == "accepted"
    valkey.delete(TRADES)
    assert [producer.answer()["status"] for _ in range(3)] == ["accepted"] * 3
    assert stored(valkey) == ["s-1", "s-2", "s-3"]
    assert stored(valkey, TRADES) == ["s-1"]


def test_told_to_stop_it_answers_what_has_arrived_and_takes_no_more(running: Running, valkey: redis.Redis) -> None:
    idle, busy, unread = (running.connect() for _ in range(3))
    fill(unread)
    busy.send(*(good(number, bars=None) for number in range(150)))
    running.grace[0] = 2.0
    running.end()
    assert idle.is_closed()
    answers = busy.answers.readlines()
    assert [json.loads(answer)["status"] for answer in answers] == ["accepted"] * 150
    assert len(stored(valkey)) == 150
    with pytest.raises(ConnectionRefusedError):
        running.connect()


def test_the_socket_is_for_its_user_and_group_and_what_a_killed_gateway_left_is_replaced(
    tmp_path: Path, valkey_url: str
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with gateway(path, valkey_url) as running:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(ServerBusy, match="another gateway"), listening(path, group=None):
            pass
        assert running.connect().ask(good(1))[0]["status"] == "accepted"
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="no socket"), listening(path, group=None):
        pass
    assert path.read_text() == "mine"
    with pytest.raises(ConfigurationError, match="no group 'nobodys'"), listening(tmp_path / "t", group="nobodys"):
        pass
    with pytest.raises(ConfigurationError, match="cannot listen"), listening(tmp_path / ("l" * 200), group=None):
        pass


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def process(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`refinery gateway` once it listens."""
    path = Path(environment["REFINERY_GATEWAY__SOCKET"])
    started = subprocess.Popen([*REFINERY, "gateway"], env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: started.poll() is not None or listens(path))
        yield started, path
    finally:
        started.kill()
        started.wait(HANGS_AFTER_S)


class HeldReplies:
    """A way to the server on which the answer to an XADD is never delivered."""

    def __init__(self, path: Path, server: str) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._held = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            if b"XADD" in data:
                self._held.set()
            elif self._held.is_set():
                return
            sink.sendall(data)


def test_killed_between_xadd_and_answer_and_sent_again_an_event_has_its_effect_once(
    installation: Installation, valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    HeldReplies(held, valkey_url.removeprefix("unix://"))
    place = {"REFINERY_GATEWAY__SOCKET": str(tmp_path / "s")}
    with process(installation.environment | place | {"REFINERY_REDIS_URL": f"unix://{held}"}) as (started, path):
        producer = Producer(path)
        producer.send(good(1))
        wait_until(lambda: valkey.xlen(SIGNALS) == 1)
        started.send_signal(signals.SIGKILL)
        assert producer.is_closed()
    with process(installation.environment | place) as (_, path):
        assert Producer(path).ask(good(1))[0]["status"] == "accepted"
    assert valkey.xlen(SIGNALS) == 2
    with desk(settings_for(installation.state_dir, valkey_url)) as world:
        handled = world.drain()
    assert (handled.signals, handled.duplicates, handled.dead_lettered) == (1, 1, 0)
    assert len(scored(valkey)) == 1


def test_a_producer_without_any_right_in_redis_is_heard_through_a_gateway_that_may_only_append(
    tmp_path: Path, installation: Installation, valkey: redis.Redis, valkey_url: str
) -> None:
    """Another process, which knows the socket alone, with the lines that the documentation gives."""
    users = valkey.execute_command
    users("ACL", "SETUSER", "gateway", "on", ">secret", "-@all", "+@connection", "+xadd", f"~{SIGNALS}", f"~{TRADES}")
    try:
        url = valkey_url.replace("unix://", "unix://gateway:secret@")
        with process(installation.environment | {
            "REFINERY_REDIS_URL": url, "REFINERY_GATEWAY__SOCKET": str(tmp_path / "s"),
        }) as (started, path):  # fmt: skip
            [code] = re.findall(r"```python gateway\n(.*?)```", EVENTS.read_text(), re.S)
            now = datetime.now(UTC)
            event = line(**signal(1, timestamp=now.isoformat(), bars=bars(end=now)))
            script = code.replace("/run/refinery-gateway/gateway.sock", str(path))
            done = subprocess.run([sys.executable, "-I", "-c", script], input=event, env={}, capture_output=True)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["status"] == "accepted"
            started.terminate()
            assert started.wait(HANGS_AFTER_S) == 0
            assert not path.exists()
            assert b"secret" not in started.stderr.read()  # type: ignore[union-attr]
        with desk(settings_for(installation.state_dir, valkey_url)) as world:
            assert world.drain().signals == 1
        with redis.Redis.from_url(url) as as_gateway:
            for command in (f"XTRIM {SIGNALS} MAXLEN 0", f"XRANGE {SIGNALS} - +", "KEYS *", f"DEL {SIGNALS}"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    as_gateway.execute_command(*command.split())
    finally:
        users("ACL", "DELUSER", "gateway")


def test_a_gateway_whose_rights_are_taken_away_waits_and_says_which(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str, errors_logged: list[str]
) -> None:
    users = valkey.execute_command
    users("ACL", "SETUSER", "gateway", "on", ">secret", "-@all", "+@connection", f"~{SIGNALS}")
    try:
        with gateway(tmp_path / "s", valkey_url.replace("unix://", "unix://gateway:secret@")) as running:
            producer = running.connect()
            producer.send(good(1))
            wait_until(lambda: errors_logged)
            time.sleep(0.1)
            users("ACL", "SETUSER", "gateway", "+xadd")
            assert producer.answer()["status"] == "accepted"
    finally:
        users("ACL", "DELUSER", "gateway")
    assert len(errors_logged) == 1
    assert "lacks a right" in errors_logged[0]
