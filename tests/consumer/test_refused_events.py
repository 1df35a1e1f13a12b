"""What is done with events that are refused is bounded as what is done with those that are let in."""

from __future__ import annotations

import os
import resource
import signal as signals
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.desk import Desk, desk, pending, send, settings_for
from tests.support.events import GROUP, SIGNALS, signal
from tests.support.processes import fork
from tests.support.real_processes import REFINERY, Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase
from worker.console.filters import pretty
from worker.dead_letters import DeadLetters, difference, fingerprint
from worker.redis_server.connection import connect
from worker.streams import reader, replies
from worker.streams.replies import ReplyTooLarge

MIB = 1024 * 1024
#: A list of empty lists: as Python's objects many times the memory of its bytes.
NESTED = b"[" + b"[]," * (157 * MIB // 3) + b"[]]"
HOSTILE_NAME = "'\"" + "a" * 200_000


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    with desk(settings_for(tmp_path / "var", valkey_url, max_deliveries=3)) as built:
        yield built


def letters(store: FeatureDatabase) -> list[DeadLetterRow]:
    return store.dead_letters.find(payloads=True)


def is_ready(client: redis.Redis) -> bool:
    return bool(client.exists(SIGNALS)) and bool(client.xinfo_consumers(SIGNALS, GROUP))


def peak_of_an_idle_worker(place: Installation, environment: dict[str, str], client: redis.Redis) -> int:
    """Bytes of address space."""
    process = subprocess.Popen([*REFINERY, "worker"], env=environment)
    wait_until(lambda: is_ready(client))
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.terminate()
    process.wait(HANGS_AFTER_S)
    return int(next(line for line in status.splitlines() if line.startswith("VmPeak")).split()[1]) * 1024


@pytest.mark.sqlite_file  # about memory, which is the same
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the memory of a process")
def test_no_entry_takes_a_worker_down_that_has_little_memory(installation: Installation, valkey: redis.Redis) -> None:
    """With the rights of a producer: an event of 157 MiB, and an entry without an event and with a hostile name."""
    environment = installation.environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    most = peak_of_an_idle_worker(installation, environment, valkey) + 160 * MIB
    process = subprocess.Popen(
        [*REFINERY, "worker"],
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )
    try:
        send(valkey, SIGNALS, NESTED)
        valkey.xadd(SIGNALS, {HOSTILE_NAME: "x"})
        send(valkey, SIGNALS, signal(1))
        with FeatureDatabase(installation.state_dir / "features.db", read_only=True) as store:
            wait_until(lambda: store.counts().signals == 1 or process.poll() is not None)
            assert process.poll() is None
            assert sorted(letter.reason for letter in letters(store)) == ["missing_data", "too_large"]
            assert max(len(letter.error) for letter in letters(store)) < 1000
    finally:
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0
    assert pending(valkey) == 0


def test_a_batch_is_bounded_by_its_bytes_and_nothing_of_it_is_charged(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MOST_REPLY_BYTES", 400_000)
    monkeypatch.setattr(reader, "MOST_REPLY_BYTES", 400_000)
    settings = settings_for(tmp_path, valkey_url, max_event_bytes=32_768)
    for number in range(100):
        send(valkey, SIGNALS, signal(number) | {"padding": "x" * 12_000})
    with desk(settings) as worker:
        worker.drain()
        assert (worker.store.counts().signals, worker.store.counts().dead_letters) == (100, 0)
        assert max(result.signals for result in worker.handled) <= 400_000 // 12_000
        assert worker.store._connection.query("SELECT * FROM attempts") == []


def test_a_reply_beyond_the_limit_is_given_up_and_the_client_goes_on(
    valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MOST_REPLY_BYTES", 200_000)
    valkey.set("large", b"x" * 300_000)
    valkey.set("fits", b"x" * 150_000)
    with connect(valkey_url) as client:
        with pytest.raises(ReplyTooLarge, match="200,000"):
            client.get("large")
        for _ in range(3):
            assert len(client.get("fits")) == 150_000  # type: ignore[arg-type]


def test_an_event_that_is_far_too_large_is_refused_by_its_beginning_and_a_corrected_one_can_be_sent(
    worker: Desk, valkey: redis.Redis
) -> None:
    send(valkey, SIGNALS, b'{"signal_id": "s-1", ' + b" " * (5 * MIB) + b"}")
    send(valkey, SIGNALS, signal(2))
    worker.drain()
    [letter] = letters(worker.store)
    assert (letter.reason, letter.payload, worker.store.counts().signals) == ("too_large", b"", 1)
    assert str(5 * MIB)[:4] in letter.error
    assert '{"signal_id": "s-1"' in letter.error
    dead = DeadLetters(worker.store, version="1")
    assert dead.replay(valkey, [letter], actor="ops").skipped == [letter.id]
    dead.edit(letter, orjson.dumps(signal(1)), actor="ops")
    assert len(dead.replay(valkey, dead.chosen([letter.id], None), actor="ops").sent) == 1
    worker.drain()
    assert worker.store.counts().signals == 2


def test_an_event_that_is_somewhat_too_large_is_kept_whole_and_not_parsed(worker: Desk, valkey: redis.Redis) -> None:
    data = orjson.dumps(signal(1) | {"padding": "x" * MIB})
    send(valkey, SIGNALS, data)
    worker.drain()
    [letter] = letters(worker.store)
    assert (letter.reason, letter.payload, letter.signal_id) == ("too_large", data, None)


def test_an_event_that_kills_whoever_reads_it_is_dead_lettered_unread_and_the_others_go_on(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    for number in (1, 2, 3):
        send(valkey, SIGNALS, signal(number))
    settings = settings_for(tmp_path, valkey_url, max_deliveries=2)

    def live() -> None:
        entry = reader.Entry

        def deadly(stream: str, entry_id: str, fields: dict[bytes, bytes], *rest: Any, **more: Any) -> Any:
            if b'"s-2"' in fields.get(b"data", b""):
                os.kill(os.getpid(), signals.SIGKILL)
            return entry(stream, entry_id, fields, *rest, **more)

        reader.Entry = deadly  # type: ignore[assignment,misc]
        with desk(settings) as worker:
            worker.drain(rounds=40)

    codes = []
    while not codes or codes[-1] != 0:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(fork(live), 0)[1]))
        assert len(codes) < 10, codes
    assert set(codes[:-1]) == {-signals.SIGKILL}
    with desk(settings) as worker:
        [letter] = letters(worker.store)
        assert (letter.reason, letter.attempts, letter.payload) == ("handler_error", 4, b"")
        assert worker.store.counts().signals == 2
        assert worker.store._connection.query("SELECT * FROM attempts") == []
        assert pending(valkey) == 0


def test_a_fingerprint_takes_as_long_as_its_text() -> None:
    """Quadratic, this would not end."""
    assert fingerprint("schema", HOSTILE_NAME * 20) == fingerprint("schema", HOSTILE_NAME * 20)
    assert fingerprint("schema", "word-17 's-1' \"x\" 2.5") == fingerprint("schema", "word-18 's-2' \"y\" 3.5")


def test_a_difference_of_many_lines_is_told_in_one() -> None:
    many = b"\n".join(b"%d" % number for number in range(200_000))
    assert difference(many, many[::-1]) == f"200000 lines of {len(many)} bytes became 200000 lines of {len(many)} bytes"
    assert max(map(len, difference(b'{"a": "%b"}' % (b"x" * MIB), b'{"a": 1}').splitlines())) < 600


def test_a_large_payload_is_shown_without_being_parsed() -> None:
    shown, is_cut = pretty(b"[" + b"[]," * MIB + b"[]]")
    assert is_cut
    assert shown.startswith("[[],[],")
