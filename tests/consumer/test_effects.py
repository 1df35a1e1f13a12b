"""What events do: features, scores, labels, and each of them once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import redis

from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.storage import OutcomeRow


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    with desk(settings_for(tmp_path, valkey_url)) as built:
        yield built


def test_a_signal_is_stored_and_answered_and_its_trade_labels_it(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    send(valkey, TRADES, outcome(1, 2.5))
    worker.drain()

    vector = worker.store.get_feature_vector("s-1")
    assert vector is not None
    assert vector.target == 2.5
    assert vector.target_binary == 1
    assert vector.features["technical_score"] == 0.75
    [answer] = scored(valkey)
    assert answer["signal_id"] == "s-1"
    assert answer["status"] == "cold_start"
    assert answer["quality_score"] is None
    assert pending(valkey) == 0


def test_an_outcome_that_comes_before_its_signal_is_applied_when_the_signal_comes(
    worker: Desk, valkey: redis.Redis
) -> None:
    send(valkey, TRADES, outcome(1, -1.0))
    worker.drain()
    assert worker.store.counts().waiting_outcomes == 1
    send(valkey, SIGNALS, signal(1))
    handled = worker.drain()
    assert handled.labelled == 1
    vector = worker.store.get_feature_vector("s-1")
    assert vector is not None
    assert vector.target == -1.0


def test_the_same_event_twice_has_one_effect_and_one_answer_to_the_byte(worker: Desk, valkey: redis.Redis) -> None:
    for _ in range(2):
        send(valkey, SIGNALS, signal(1))
        send(valkey, TRADES, outcome(1))
        worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.outcomes, counts.labelled, counts.duplicates) == (1, 1, 1, 2)
    assert len({str(answer) for answer in scored(valkey)}) == 1


def test_the_same_signal_written_down_in_another_order_is_no_conflict(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, signal(1))
    send(valkey, SIGNALS, dict(reversed(signal(1).items())))
    worker.drain()
    assert worker.store.counts().duplicates == 1
    assert worker.store.counts().dead_letters_open == 0


def test_the_same_identity_with_other_content_is_dead_lettered_and_the_first_stands(
    worker: Desk, valkey: redis.Redis
) -> None:
    send(valkey, SIGNALS, signal(1))
    send(valkey, SIGNALS, signal(1, technical_score=1.0))
    send(valkey, TRADES, outcome(1, 1.0))
    send(valkey, TRADES, outcome(1, 2.0))
    worker.drain()
    letters = worker.store.dead_letters.find()
    assert sorted(letter.reason for letter in letters) == ["identity_conflict", "outcome_conflict"]
    vector = worker.store.get_feature_vector("s-1")
    assert vector is not None
    assert vector.features["technical_score"] == 0.75
    assert vector.target == 1.0


def test_a_higher_revision_corrects_the_label_in_any_order(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, signal(1))
    send(valkey, TRADES, outcome(1, 3.0, revision=2))
    send(valkey, TRADES, outcome(1, 1.0))
    worker.drain()
    vector = worker.store.get_feature_vector("s-1")
    assert vector is not None
    assert vector.target == 3.0


@pytest.mark.parametrize("first", [SIGNALS, TRADES])
def test_a_trade_that_closed_before_its_signal_is_dead_lettered_whichever_came_first(
    worker: Desk, valkey: redis.Redis, first: str
) -> None:
    events = {SIGNALS: signal(1), TRADES: outcome(1, closed_at="2024-02-01T00:00:00Z")}
    for stream in sorted(events, key=lambda name: name != first):
        send(valkey, stream, events[stream])
        worker.drain()
    [letter] = worker.store.dead_letters.find(payloads=True)
    assert letter.reason == "closed_before_signal"
    assert letter.payload == orjson.dumps(events[TRADES])
    assert worker.store.counts().labelled == 0


@pytest.fixture
def without_archive(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    with desk(settings_for(tmp_path, valkey_url, archive={"enabled": False})) as built:
        yield built


#: Written as no serializer of ours writes it: bytes made anew would be others.
EARLY_BYTES = b'{ "r_multiple":1.50, "closed_at":"2024-02-01T01:00:00+01:00", "signal_id":"s-1" , "venue":"x"}'


def test_without_an_archive_too_an_outcome_that_waited_and_is_refused_keeps_its_original_bytes(
    without_archive: Desk, valkey: redis.Redis
) -> None:
    worker = without_archive
    entry_id = send(valkey, TRADES, EARLY_BYTES)
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    [letter] = worker.store.dead_letters.find(payloads=True)
    assert (letter.reason, letter.entry_id) == ("closed_before_signal", entry_id)
    assert letter.payload == EARLY_BYTES
    assert not worker.settings.archive_path.exists()


def test_without_an_archive_too_an_outcome_that_waited_and_was_refused_is_known_when_it_is_delivered_again(
    without_archive: Desk, valkey: redis.Redis
) -> None:
    worker = without_archive
    send(valkey, TRADES, EARLY_BYTES)
    worker.drain()
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    valkey.xgroup_setid(TRADES, "ml-refinement", "0")  # a failover, or a restore with --reread
    worker.consumer._own_due = 0.0
    again = worker.drain()
    assert (again.dead_lettered, worker.store.counts().dead_letters) == (0, 1)
    assert [letter.attempts for letter in worker.store.dead_letters.find()] == [1]
    assert pending(valkey) == 0


@pytest.mark.parametrize("closed_at", ["2024-02-01T00:00:00Z", "2024-04-01T00:00:00Z"])
def test_the_bytes_of_an_outcome_are_kept_only_for_as_long_as_it_waits(
    worker: Desk, valkey: redis.Redis, closed_at: str
) -> None:
    held = "SELECT revision, payload FROM waiting_payloads"
    events = {revision: orjson.dumps(outcome(1, closed_at=closed_at, revision=revision)) for revision in (2, 0)}
    for event in events.values():
        send(valkey, TRADES, event)
    worker.drain()
    assert dict(worker.store._connection.query(held)) == events
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    send(valkey, TRADES, outcome(1, revision=3))
    worker.drain()
    assert worker.store._connection.query(held) == []


def test_an_outcome_that_a_notebook_recorded_and_that_is_refused_is_dead_lettered_as_the_event_it_would_have_been(
    worker: Desk, valkey: redis.Redis
) -> None:
    worker.store.outcomes.record([OutcomeRow("s-1", 0, "2024-02-01T00:00:00.000000Z", 1.5)])
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    [letter] = worker.store.dead_letters.find(payloads=True)
    assert letter.reason == "closed_before_signal"
    assert orjson.loads(letter.payload or b"")["r_multiple"] == 1.5


def test_a_bad_event_is_dead_lettered_with_its_bytes_and_its_neighbours_go_on(
    worker: Desk, valkey: redis.Redis
) -> None:
    send(valkey, SIGNALS, signal(1))
    entry_id = send(valkey, SIGNALS, b'{"signal_id": "s-2", "technical_score": NaN}')
    send(valkey, SIGNALS, signal(3))
    handled = worker.drain()
    assert (handled.signals, handled.dead_lettered) == (2, 1)
    [letter] = worker.store.dead_letters.find(payloads=True)
    assert letter.payload == b'{"signal_id": "s-2", "technical_score": NaN}'
    assert letter.entry_id == entry_id
    assert letter.stream == SIGNALS


def test_an_entry_without_data_and_a_trimmed_one_are_dead_lettered_too(worker: Desk, valkey: redis.Redis) -> None:
    worker.drain()
    valkey.xadd(SIGNALS, {"payload": b"{}"})
    lost = send(valkey, SIGNALS, signal(1))
    valkey.xreadgroup("ml-refinement", worker.settings.consumer, {SIGNALS: ">"})
    valkey.xdel(SIGNALS, lost)
    worker.consumer._own_due = 0.0
    worker.drain()
    assert sorted(letter.reason for letter in worker.store.dead_letters.find()) == ["missing_data", "payload_lost"]
    assert pending(valkey) == 0


def test_an_entry_that_was_trimmed_after_its_effect_and_before_its_score_is_answered_all_the_same(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    """As where a worker without an archive was killed in between: what it had in hand is pending, without its bytes."""
    settings = settings_for(tmp_path, valkey_url, archive={"enabled": False}, claim_idle_ms=1_000)
    with desk(settings) as worker:
        for number in range(2):
            send(valkey, SIGNALS, signal(number))
        worker.drain()
        answers = {answer["signal_id"]: answer for answer in scored(valkey)}
        valkey.delete(SCORES)
        valkey.xgroup_setid(SIGNALS, GROUP, "0")
        valkey.xreadgroup(GROUP, settings.consumer, {SIGNALS: ">"})
        valkey.xtrim(SIGNALS, maxlen=0, approximate=False)
        handled = worker.drain()
        assert (handled.redelivered, handled.dead_lettered, pending(valkey)) == (2, 0, 0)
        assert {answer["signal_id"]: answer for answer in scored(valkey)} == answers


def test_bars_come_from_the_market_data_directory_and_a_missing_symbol_is_replayable(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    from tests.support.events import START, bars
    from worker.dead_letters import DeadLetters

    directory = tmp_path / "bars"
    directory.mkdir()
    without_bars = {name: value for name, value in signal(0).items() if name != "bars"}
    with desk(settings_for(tmp_path / "state", valkey_url, market_data_dir=directory)) as worker:
        send(valkey, SIGNALS, without_bars)
        worker.drain()
        [letter] = worker.store.dead_letters.find(payloads=True)
        assert letter.reason == "no_market_data"
        assert "ACME" in letter.error

        columns = bars(end=START, seed=0)
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
        (directory / "ACME.csv").write_text("\n".join(lines) + "\n")
        DeadLetters(worker.store, version="test").replay(worker.client, [letter], actor="test")
        worker.drain()
        assert worker.store.get_feature_vector("s-0") is not None
        assert worker.store.dead_letters.find() == []
        [entry] = worker.store.dead_letters.audit(letter.id)
        assert entry.actor == "test"


def test_a_field_that_is_none_of_ours_is_passed_over_and_counted(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, signal(1, strategy="mine", desk={"name": "a"}))
    send(valkey, TRADES, outcome(1, note="x"))
    handled = worker.drain()
    assert (handled.signals, handled.outcomes, handled.unknown_fields) == (1, 1, 3)
