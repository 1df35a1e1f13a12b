"""The loop's manners: what it keeps, gives back, charges and leaves alone; and who may be a worker."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES, outcome, signal
from tests.support.processes import fork
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.consumer.batch_handler import BatchHandler, BatchResult
from worker.errors import ConfigurationError, ServerBusy, StoreUnusable, TransientError
from worker.streams import maintenance, preflight
from worker.streams.entries import Entry
from worker.streams.errors import translated
from worker.streams.preflight import check_server
from worker.supervision.slots import worker_slot


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    with desk(settings_for(tmp_path / "var", valkey_url, max_deliveries=3)) as built:
        yield built


def deliveries(client: redis.Redis, stream: str = SIGNALS) -> list[dict[str, Any]]:
    rows: Any = client.xpending_range(stream, GROUP, "-", "+", 100)
    return rows  # type: ignore[no-any-return]


class Sick:
    """Makes the handler raise, for entries that hold some text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception, *, text: bytes = b"") -> None:
        self.error: Exception | None = error
        handle = BatchHandler.handle

        def sick(handler: BatchHandler, entries: Sequence[Entry]) -> BatchResult:
            if self.error is not None and any(text in (entry.data or b"") for entry in entries):
                raise self.error
            return handle(handler, entries)

        monkeypatch.setattr(BatchHandler, "handle", sick)


def test_a_long_outage_of_our_own_uses_up_no_event(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start delivers the batch again; a single defect after all of them must not dead-letter it."""
    settings = settings_for(tmp_path, valkey_url, max_deliveries=3)
    sick = Sick(monkeypatch, TransientError("locked"))
    send(valkey, SIGNALS, signal(1))
    for _ in range(6):
        with desk(settings) as worker:
            worker.drain(rounds=10)
    assert deliveries(valkey)[0]["times_delivered"] > 5
    with desk(settings) as worker:
        sick.error = ZeroDivisionError("once")
        worker.drain(rounds=1)
        assert worker.store.counts().dead_letters == 0
        sick.error = None
        worker.consumer._own_due = 0.0
        worker.drain()
        assert worker.store.counts().signals == 1
        assert worker.store._connection.query("SELECT * FROM attempts") == []


def test_a_damaged_store_stops_the_worker_and_charges_nothing(
    worker: Desk, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    from trading_system.ml_refinement.storage import StoreDamaged
    from trading_system.ml_refinement.storage.tables.vectors import Vectors

    def damaged(*_: Any) -> None:
        raise StoreDamaged("features.db: database disk image is malformed")

    monkeypatch.setattr(Vectors, "known", damaged)
    with pytest.raises(StoreUnusable, match="restore a backup"):
        worker.drain()
    assert pending(valkey) == 1
    assert scored(valkey) == []
    assert worker.store._connection.query("SELECT * FROM attempts") == []


def test_on_shutdown_what_was_not_handled_is_free_for_others_at_once(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(settings_for(tmp_path / "a", valkey_url)) as first:
        first.drain()
        send(valkey, SIGNALS, signal(1))
        sick = Sick(monkeypatch, TransientError("locked"))
        first.drain(rounds=2)
        sick.error = None
    assert [row["time_since_delivered"] > first.settings.claim_idle_ms for row in deliveries(valkey)] == [True]
    with desk(settings_for(tmp_path / "a", valkey_url, consumer_slot=1)) as second:
        second.drain()
        assert second.store.counts().signals == 1


def test_a_batch_that_takes_long_keeps_its_claim(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, valkey_url, claim_idle_ms=4000)
    handle = BatchHandler.handle

    def slow(handler: BatchHandler, entries: Sequence[Entry]) -> BatchResult:
        idle = [0]

        def claimed_anew() -> bool:
            idle.append(deliveries(valkey)[0]["time_since_delivered"])
            return idle[-1] < idle[-2]

        wait_until(claimed_anew)
        return handle(handler, entries)

    monkeypatch.setattr(BatchHandler, "handle", slow)
    with desk(settings) as worker:
        send(valkey, SIGNALS, signal(1))
        worker.drain()
        assert worker.store.counts().signals == 1


@pytest.mark.parametrize("workers", [1, 8], ids=["the same one started again", "one after another takes it over"])
def test_an_event_that_kills_its_worker_is_dead_lettered_in_the_end_and_the_others_go_on(
    workers: int, tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    for number in (1, 2, 3):
        send(valkey, SIGNALS, signal(number))

    def live(slot: int) -> None:
        settings = settings_for(tmp_path, valkey_url, max_deliveries=2, consumer_slot=slot)
        compute = BatchHandler._compute

        def deadly(handler: BatchHandler, intake: Any, now: Any) -> Any:
            if "s-2" in intake.signals:
                os.kill(os.getpid(), signals.SIGKILL)
            return compute(handler, intake, now)

        BatchHandler._compute = deadly  # type: ignore[method-assign]
        with desk(settings) as worker:
            worker.drain(rounds=40)

    codes = []
    while not codes or codes[-1] != 0:
        slot = len(codes) % workers
        for held in valkey.xpending_range(SIGNALS, GROUP, "-", "+", 10) if codes else ():  # type: ignore[union-attr]
            valkey.xclaim(SIGNALS, GROUP, held["consumer"], 0, [held["message_id"]], idle=3_600_000, justid=True)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(fork(partial(live, slot)), 0)[1]))
        assert len(codes) < 8, codes
    assert set(codes[:-1]) == {-signals.SIGKILL}
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        [letter] = worker.store.dead_letters.find()
        assert (letter.signal_id, letter.reason, letter.attempts) == ("s-2", "handler_error", 2)
        assert "ended without a word" in letter.error
        assert worker.store.counts().signals == 2
        assert worker.store._connection.query("SELECT * FROM attempts") == []
        assert pending(valkey) == 0


def test_an_entry_whose_effect_is_there_and_whose_payload_is_gone_is_not_dead_lettered_too(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    """Killed between commit and acknowledgement, and then the stream is trimmed."""
    settings = settings_for(tmp_path, valkey_url, archive={"enabled": False})
    with desk(settings) as worker:
        entries = [
            Entry(stream, send(valkey, stream, event), {b"data": valkey.xrange(stream)[-1][1][b"data"]})  # type: ignore[index]
            for stream, event in ((SIGNALS, signal(1)), (SIGNALS, signal(1)), (TRADES, outcome(1)))
        ]
        for stream in (SIGNALS, TRADES):
            valkey.xgroup_create(stream, GROUP, id="0")
        valkey.xreadgroup(GROUP, settings.consumer, {SIGNALS: ">", TRADES: ">"})
        worker.consumer._handler.handle(entries)
        valkey.xtrim(SIGNALS, maxlen=0)
        valkey.xtrim(TRADES, maxlen=0)
        worker.drain()
        counts = worker.store.counts()
        assert (counts.signals, counts.outcomes, counts.duplicates, counts.dead_letters) == (1, 1, 1, 0)
        assert pending(valkey) == 0


def test_an_entry_that_was_read_before_it_was_trimmed_comes_back_from_the_archive(
    worker: Desk, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.drain()
    entry_id = send(valkey, SIGNALS, signal(1))
    compute = BatchHandler._compute
    monkeypatch.setattr(BatchHandler, "_compute", lambda *_: (_ for _ in ()).throw(TransientError("locked")))
    worker.drain(rounds=2)
    valkey.xdel(SIGNALS, entry_id)
    monkeypatch.setattr(BatchHandler, "_compute", compute)
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.dead_letters) == (1, 0)


def test_an_event_that_was_unfit_for_one_worker_and_fit_for_another_is_settled_once(
    worker: Desk, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker decides to dead-letter, hangs, another one applies; then the first one goes on."""
    worker.drain()
    event = {name: value for name, value in signal(1).items() if name != "bars"}
    send(valkey, SIGNALS, event)
    settings, apply = worker.settings, BatchHandler._apply
    others: list[int] = []

    def overtaken(handler: BatchHandler, *arguments: Any) -> BatchResult:
        return apply(handler, *arguments)

    compute = BatchHandler._compute

    def hangs(handler: BatchHandler, intake: Any, now: Any) -> Any:
        computed = compute(handler, intake, now)
        if not others:
            others.append(1)
            _apply_elsewhere(settings, valkey)
        return computed

    monkeypatch.setattr(BatchHandler, "_compute", hangs)
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.dead_letters) == (1, 0)


def test_what_was_stored_and_not_published_is_published_as_it_was_stored_when_it_is_delivered_again(
    worker: Desk, valkey: redis.Redis
) -> None:
    """Killed between commit and publishing."""
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    entries = worker.consumer._reader.read_new()
    [said] = worker.consumer._handler.handle(entries).scores
    assert scored(valkey) == []
    worker.consumer._own_due = 0.0
    worker.drain()
    [(_, fields)] = valkey.xrange(SCORES)  # type: ignore[misc]
    assert fields[b"data"] == said
    assert pending(valkey) == 0


def test_an_event_that_another_worker_dead_lettered_while_this_one_computed_is_not_applied_too(
    worker: Desk, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked before the store was locked is asked again inside: an entry ends in one way."""
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    compute, others = BatchHandler._compute, []

    def hangs(handler: BatchHandler, intake: Any, now: Any) -> Any:
        computed = compute(handler, intake, now)
        if not others:
            others.append(1)
            [(entry_id, fields)] = valkey.xrange(SIGNALS)  # type: ignore[misc]
            with desk(worker.settings.model_copy(update={"consumer_slot": 5})) as other:
                entry = Entry(SIGNALS, entry_id.decode(), fields)
                other.consumer._handler.dead_letter(entry, ValueError("no good there"), 3)
        return computed

    monkeypatch.setattr(BatchHandler, "_compute", hangs)
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.dead_letters) == (0, 1)
    assert pending(valkey) == 0


def _apply_elsewhere(settings: Any, client: redis.Redis) -> None:
    directory = Path(settings.state_dir) / "bars"
    directory.mkdir()
    from tests.support.events import START, bars

    columns = bars(end=START, seed=0)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (directory / "ACME.csv").write_text("\n".join(lines) + "\n")
    [(entry_id, fields)] = client.xrange(SIGNALS)  # type: ignore[misc]
    with desk(settings.model_copy(update={"market_data_dir": directory, "consumer_slot": 5})) as other:
        other.consumer._handler.handle([Entry(SIGNALS, entry_id.decode(), fields)])


def test_only_consumers_that_are_gone_and_hold_nothing_are_removed(valkey: redis.Redis) -> None:
    valkey.xgroup_create(SIGNALS, GROUP, id="0", mkstream=True)
    send(valkey, SIGNALS, b"{}")
    valkey.xreadgroup(GROUP, "holds", {SIGNALS: ">"})
    for name in ("gone", "me"):
        valkey.xgroup_createconsumer(SIGNALS, GROUP, name)

    def removed(idle_ms: int) -> list[str]:
        return maintenance.remove_dead_consumers(valkey, [SIGNALS, TRADES], GROUP, me="me", idle_ms=idle_ms)

    assert removed(idle_ms=3_600_000) == []
    wait_until(lambda: all(row["idle"] > 10 for row in valkey.xinfo_consumers(SIGNALS, GROUP)))  # type: ignore[union-attr]
    assert removed(idle_ms=10) == ["gone"]
    names = {row["name"] for row in valkey.xinfo_consumers(SIGNALS, GROUP)}  # type: ignore[union-attr]
    assert names == {b"holds", b"me"}
    assert valkey.xpending(SIGNALS, GROUP)["pending"] == 1  # type: ignore[index]


def test_trimming_stops_before_what_any_group_has_not_finished(valkey: redis.Redis) -> None:
    ids = [send(valkey, SIGNALS, b"%d" % number) for number in range(10)]

    def trim(older_than_s: float = -10) -> list[str]:
        maintenance.trim_handled(valkey, [SIGNALS, TRADES], older_than_s=older_than_s)
        return [entry_id.decode() for entry_id, _ in valkey.xrange(SIGNALS)]  # type: ignore[union-attr]

    assert trim() == ids  # no group reads it
    for group in (GROUP, "other"):
        valkey.xgroup_create(SIGNALS, group, id="0")
    assert trim() == ids  # nobody has read anything
    valkey.xreadgroup(GROUP, "a", {SIGNALS: ">"}, count=6)
    valkey.xack(SIGNALS, GROUP, *ids[:6])
    assert trim() == ids  # the other group has not
    valkey.xreadgroup("other", "a", {SIGNALS: ">"}, count=8)
    valkey.xack(SIGNALS, "other", *(ids[i] for i in (0, 1, 2, 4, 5, 6, 7)))
    assert trim(older_than_s=3600) == ids  # none is old enough
    assert trim() == ids[3:]  # the fourth is pending
    valkey.xack(SIGNALS, "other", ids[3])
    assert trim() == ids[6:]
    valkey.xreadgroup(GROUP, "a", {SIGNALS: ">"})
    valkey.xreadgroup("other", "a", {SIGNALS: ">"})
    for group in (GROUP, "other"):
        valkey.xack(SIGNALS, group, *ids)
    assert trim() == []


def test_a_server_that_would_lose_events_is_refused(valkey: redis.Redis) -> None:
    check_server(valkey, [SIGNALS, TRADES])
    valkey.set(TRADES, "a string")
    with pytest.raises(ConfigurationError, match=r"trades\.closed holds a string"):
        check_server(valkey, [SIGNALS, TRADES])
    valkey.delete(TRADES)
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigurationError, match="noeviction"):
            check_server(valkey, [SIGNALS])
    finally:
        valkey.config_set("maxmemory-policy", "noeviction")


def test_a_server_that_may_forget_is_used_and_warned_of(valkey: redis.Redis, warnings_logged: list[str]) -> None:
    valkey.config_set("appendonly", "no")
    try:
        check_server(valkey, [SIGNALS])
    finally:
        valkey.config_set("appendonly", "yes")
    assert ["a crash of the server loses events" in line for line in warnings_logged] == [True]


def test_a_server_that_lacks_a_command_is_refused(valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_NEEDED_COMMANDS", ("XADD", "XFROMTHEFUTURE"))
    with pytest.raises(ConfigurationError, match="no XFROMTHEFUTURE"):
        check_server(valkey, [])


def test_each_worker_of_a_machine_has_a_slot_of_its_own(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with worker_slot(settings) as first, worker_slot(settings) as second:
        assert (first.consumer_slot, second.consumer_slot) == (0, 1)
        with (
            pytest.raises(ServerBusy, match="slot 1"),
            worker_slot(settings_for(tmp_path / "var", valkey_url, consumer_slot=1)),
        ):
            pass
    with worker_slot(settings) as again:
        assert again.consumer == first.consumer
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700


#: A worker that waits for its store for ever, so that nothing but the grace ends one whose store is locked.
_PATIENT = """
from trading_system.ml_refinement.storage import SqliteConnection
SqliteConnection.__init__.__kwdefaults__["busy_timeout_ms"] = 10**9
from worker.cli.main import main
main()
"""


def _worker_process(
    tmp_path: Path, url: str, *arguments: str, start: Sequence[str] = ("-m", "worker"), grace_s: float = HANGS_AFTER_S
) -> subprocess.Popen[bytes]:
    environment = {
        "REFINERY_REDIS_URL": url,
        "REFINERY_STATE_DIR": str(tmp_path / "var"),
        "REFINERY_METRICS_PORT": "0",
        "REFINERY_BLOCK_MS": "50",
        "REFINERY_BATCH_SIZE": "4",
        "REFINERY_SHUTDOWN_GRACE_S": str(int(grace_s)),
    }
    return subprocess.Popen(
        [sys.executable, *start, "worker", *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )


def test_several_processes_share_the_load_and_end_together(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    process = _worker_process(tmp_path, valkey_url, "--processes", "2")
    try:
        wait_until(lambda: valkey.exists(SIGNALS) and len(valkey.xinfo_consumers(SIGNALS, GROUP)) == 2)  # type: ignore[arg-type]
        for number in range(40):
            send(valkey, SIGNALS, signal(number))
        wait_until(lambda: len(scored(valkey)) == 40)
    finally:
        process.send_signal(signals.SIGTERM)
        assert process.wait(HANGS_AFTER_S) == 0
    with desk(settings_for(tmp_path / "var", valkey_url)) as worker:
        assert worker.store.counts().signals == 40
    assert pending(valkey) == 0


def test_sigterm_ends_a_worker_that_hangs_within_its_grace(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    """The store is locked for good, so that the batch in hand cannot be finished."""
    from trading_system.ml_refinement.storage import FeatureDatabase

    settings = settings_for(tmp_path / "var", valkey_url)
    process = _worker_process(tmp_path, valkey_url, start=("-c", _PATIENT), grace_s=1)
    try:
        wait_until(lambda: valkey.exists(SIGNALS))
        with FeatureDatabase(settings.store_place) as store, store.atomic():
            send(valkey, SIGNALS, signal(1))
            wait_until(lambda: pending(valkey) == 1)
            process.send_signal(signals.SIGTERM)
            assert process.wait(HANGS_AFTER_S) == 1
    finally:
        process.kill()
        process.wait()
    assert pending(valkey) == 1


def test_a_server_without_space_is_a_pause_and_charges_nothing(worker: Desk, valkey: redis.Redis) -> None:
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    valkey.config_set("maxmemory", "1")
    try:
        worker.drain(rounds=5)
        assert pending(valkey) == 1
        assert worker.store.counts().signals == 1
    finally:
        valkey.config_set("maxmemory", "0")
    worker.drain()
    assert pending(valkey) == 0
    assert [answer["signal_id"] for answer in scored(valkey)] == ["s-1"]
    assert worker.store.counts().dead_letters == 0


@pytest.mark.parametrize(
    "said",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed",
        "ERR Error running script (call to f_1): @user_script:4: -READONLY You can't write against a replica.",
        "LOADING server is loading the dataset in memory",
    ],
)
def test_what_a_server_says_when_it_cannot_serve_is_our_own_fault_in_a_script_too(said: str) -> None:
    with pytest.raises(TransientError), translated():
        raise redis.ResponseError(said)


def test_an_answer_that_nobody_has_thought_of_is_a_pause_too() -> None:
    with pytest.raises(TransientError, match="OOMPH"), translated():
        raise redis.ResponseError("ERR unknown command 'OOMPH'")
