"""Who acted is kept, and it is who acted: on dead letters and on trainings, whoever is faster and whoever is killed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.desk import Desk, desk, send, settings_for
from tests.support.events import SIGNALS, START, bars, signal
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.actors import SCHEDULE, UNKNOWN, acting_user
from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase
from worker import dead_letters as sending
from worker.dead_letters import DeadLetters
from worker.retraining.job import retrain
from worker.retraining.policy import RetrainReason
from worker.retraining.queue import connect_queue
from worker.retraining.requests import enqueue
from worker.streams.entries import append


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    """A worker whose market-data directory is empty: signals without bars die as `no_market_data`."""
    (tmp_path / "bars").mkdir()
    with desk(settings_for(tmp_path / "state", valkey_url, market_data_dir=tmp_path / "bars")) as built:
        yield built


@pytest.fixture
def letter(worker: Desk) -> DeadLetterRow:
    """A dead letter, with its bars there by now."""
    send(worker.client, SIGNALS, signal(0) | {"bars": None})
    worker.drain()
    supply_bars(worker)
    [found] = worker.store.dead_letters.find(payloads=True)
    return found


def supply_bars(worker: Desk) -> None:
    columns = bars(end=START, seed=0)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    assert worker.settings.market_data_dir is not None
    (worker.settings.market_data_dir / "ACME.csv").write_text("\n".join(lines) + "\n")


def audit(worker: Desk, number: int) -> list[tuple[str, str, str | None]]:
    """What was done to a dead letter: action, actor, and the entry that was sent."""
    return [(e.action, e.actor, e.detail.get("new_entry_id")) for e in worker.store.dead_letters.audit(number)]


def replay(worker: Desk, *letters: DeadLetterRow, actor: str) -> list[str]:
    """The entries that were sent."""
    done = DeadLetters(worker.store, version="test").replay(worker.client, letters, actor=actor)
    return [entry_id for _, entry_id in done.sent]


@pytest.fixture
def beside_append(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets something happen before or after each entry of a replay is sent; the entries that were."""

    def arrange(*, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> list[str]:
        sent: list[str] = []

        def appended(*arguments: Any, **named: Any) -> str:
            if before is not None:
                before()
            sent.append(append(*arguments, **named))
            if after is not None:
                after()
            return sent[-1]

        monkeypatch.setattr(sending, "append", appended)
        return sent

    return arrange


def dies() -> None:
    raise Killed


def test_a_worker_that_is_faster_than_who_replays_names_who_replays(
    worker: Desk, letter: DeadLetterRow, beside_append: Callable[..., list[str]]
) -> None:
    beside_append(after=lambda: worker.drain())
    [entry_id] = replay(worker, letter, actor="alice")
    assert worker.store.counts().signals == 1
    assert audit(worker, letter.id) == [("replayed", "alice", entry_id)]


def test_a_worker_that_comes_later_adds_nothing(worker: Desk, letter: DeadLetterRow) -> None:
    [entry_id] = replay(worker, letter, actor="alice")
    worker.drain()
    assert audit(worker, letter.id) == [("replayed", "alice", entry_id)]


def test_a_replay_killed_after_it_was_sent_is_completed_in_the_name_of_who_asked(
    worker: Desk, letter: DeadLetterRow, beside_append: Callable[..., list[str]]
) -> None:
    sent = beside_append(after=dies)
    with pytest.raises(Killed):
        replay(worker, letter, actor="alice")
    assert audit(worker, letter.id) == []
    worker.drain()
    assert audit(worker, letter.id) == [("replayed", "alice", sent[0])]
    left = worker.store.dead_letters.get(letter.id)
    assert left is not None
    assert replay(worker, left, actor="bob") == []
    assert len(audit(worker, letter.id)) == 1


def test_a_replay_killed_before_it_was_sent_leaves_the_name_to_the_next(
    worker: Desk, letter: DeadLetterRow, beside_append: Callable[..., list[str]]
) -> None:
    beside_append(before=dies)
    with pytest.raises(Killed):
        replay(worker, letter, actor="alice")
    beside_append()
    [entry_id] = replay(worker, letter, actor="bob")
    worker.drain()
    assert audit(worker, letter.id) == [("replayed", "bob", entry_id)]


@pytest.mark.parametrize("marked", ["both", "the first", "the second", "neither"])
def test_two_who_replay_at_once_are_both_named_and_the_event_has_one_effect(
    worker: Desk, letter: DeadLetterRow, beside_append: Callable[..., list[str]], marked: str
) -> None:
    sent = []
    for actor, order in (("alice", "the first"), ("bob", "the second")):
        told = beside_append(after=None if marked in ("both", order) else dies)
        with suppress(Killed):
            replay(worker, letter, actor=actor)
        sent += told
    worker.drain()
    assert sorted(audit(worker, letter.id)) == [("replayed", "alice", sent[0]), ("replayed", "bob", sent[1])]
    assert (worker.store.counts().signals, worker.store.counts().duplicates) == (1, 1)


def test_a_replay_that_dies_again_is_its_senders_and_the_next_ones_is_theirs(worker: Desk) -> None:
    send(worker.client, SIGNALS, signal(0) | {"bars": None})
    worker.drain()
    [first] = worker.store.dead_letters.find(payloads=True)
    [entry_id] = replay(worker, first, actor="alice")
    worker.drain()
    [again] = worker.store.dead_letters.find(payloads=True)
    assert again.replay_of == first.id
    assert audit(worker, first.id) == [("replayed", "alice", entry_id)]
    assert audit(worker, again.id) == []
    supply_bars(worker)
    [second] = replay(worker, again, actor="bob")
    worker.drain()
    assert audit(worker, again.id) == [("replayed", "bob", second)]


def test_what_is_discarded_while_it_is_being_replayed_has_both_names(
    worker: Desk, letter: DeadLetterRow, beside_append: Callable[..., list[str]]
) -> None:
    def discarded() -> None:
        assert DeadLetters(worker.store, version="test").discard([letter], "not wanted", actor="bob") == [letter.id]

    beside_append(before=discarded)
    [entry_id] = replay(worker, letter, actor="alice")
    worker.drain()
    assert audit(worker, letter.id) == [("discarded", "bob", None), ("replayed", "alice", entry_id)]


def test_an_entry_that_nobody_asked_for_is_nobodys(worker: Desk, letter: DeadLetterRow) -> None:
    append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1))
    worker.drain()
    assert [(action, actor) for action, actor, _ in audit(worker, letter.id)] == [("replayed", UNKNOWN)]


def test_an_entry_that_names_the_request_of_another_letter_is_nobodys(worker: Desk, letter: DeadLetterRow) -> None:
    [other] = worker.store.replays.ask([(letter.id + 1, 1)], actor="alice")
    append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1), request=other)
    worker.drain()
    assert [(action, actor) for action, actor, _ in audit(worker, letter.id)] == [("replayed", UNKNOWN)]


def test_what_the_command_line_replays_beside_a_working_worker_is_its_users(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    installation = Installation(tmp_path / "var", valkey_url)
    installation.environment["SUDO_USER"] = "alice"
    (tmp_path / "bars").mkdir()
    installation.environment["REFINERY_MARKET_DATA_DIR"] = str(tmp_path / "bars")
    process = installation.start("worker")
    try:
        for number in range(30):
            send(valkey, SIGNALS, signal(number) | {"bars": None})
        wait_until(lambda: installation.document("status")["dead_letters"] == 30)
        replayed = json.loads(installation.run("dead-letters", "replay", "--all", "--json").stdout)
        assert len(replayed["sent"]) >= 10
        installation.document("dead-letters", "discard", "--all", "--reason", "seen")
        wait_until(lambda: installation.document("status")["pending"] == 0)
        with FeatureDatabase(tmp_path / "var" / "features.db") as store:
            entries = store.dead_letters.recent_audit(1000)
            assert {entry.actor for entry in entries} == {f"alice as {acting_user()}"}
            assert {entry.action for entry in entries} == {"replayed", "discarded"}
            assert all(store.dead_letters.audit(number) for number in range(1, 31))
    finally:
        process.terminate()
        process.wait(HANGS_AFTER_S)


def test_a_caller_of_sudo_is_named_beside_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    user = acting_user()
    assert user == Path(tempfile.mkdtemp()).owner()
    monkeypatch.setenv("SUDO_USER", "alice")
    assert acting_user() == f"alice as {user}"
    monkeypatch.setenv("SUDO_USER", user)
    assert acting_user() == user


@pytest.mark.parametrize("reason", RetrainReason)
def test_a_training_keeps_who_asked_for_it(reason: RetrainReason, tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "state", valkey_url)
    client = connect_queue(valkey_url)
    with FeatureDatabase(settings.store_place) as store:
        job_id = enqueue(settings, store, client, reason=reason)
        asked = Job.fetch(job_id, connection=client, serializer=JSONSerializer).kwargs
        retrain(settings, **asked)
        [run] = store.runs.recent()
    assert run.requested_by == (acting_user() if reason is RetrainReason.MANUAL else SCHEDULE)
    assert json.dumps(asked["requested_by"])
