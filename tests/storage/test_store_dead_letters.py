from __future__ import annotations

import pytest

from tests.storage.conftest import SteppingClock
from tests.support.rows import dead
from trading_system.ml_refinement.storage import FeatureDatabase, Filter, StoreError


def test_a_dead_letter_keeps_the_bytes_to_the_byte(db: FeatureDatabase) -> None:
    payload = bytes(range(256)) * 3
    (number,) = db.dead_letters.add([dead(payload=payload, traceback="Traceback", signal_id="s1", symbol="AAPL")])
    row = db.dead_letters.get(number)
    assert row is not None
    assert row.payload == payload
    assert (row.status, row.first_seen, row.last_seen) == ("open", "2024-06-01T12:00:00.000000Z", row.first_seen)
    assert db.dead_letters.get(99) is None


def test_what_text_cannot_hold_is_kept_visibly_and_found_by_what_was_sent(db: FeatureDatabase) -> None:
    """A NUL, which PostgreSQL's text cannot hold, and half a surrogate pair, which is no text in either engine."""
    odd = "a\x00b\ud800"
    (number,) = db.dead_letters.add([dead(error=odd, traceback=odd, signal_id=odd, symbol=odd, payload=b"a\x00b")])
    row = db.dead_letters.get(number)
    assert row is not None
    assert {row.error, row.traceback, row.signal_id, row.symbol} == {r"a\u0000b\ud800"}
    assert row.payload == b"a\x00b"
    for wanted in (Filter(signal_id=odd), Filter(symbol=odd), Filter(text=odd)):
        assert [found.id for found in db.dead_letters.find(wanted)] == [number]


def test_dead_lettering_again_goes_on_counting_and_keeps_the_rest(db: FeatureDatabase, clock: SteppingClock) -> None:
    (number,) = db.dead_letters.add([dead(attempts=1)])
    clock.move(minutes=1)
    again, other = db.dead_letters.add([dead(attempts=3, payload=b"other", reason="other"), dead("2-0")])
    assert again == number
    assert other > number
    row = db.dead_letters.get(number)
    assert row is not None
    assert (row.attempts, row.reason, row.payload) == (3, "lookahead", dead().payload)
    assert (row.first_seen, row.last_seen) == ("2024-06-01T12:00:00.000000Z", "2024-06-01T12:01:00.000000Z")
    assert db.counts().dead_letters == 2


def test_every_filter_leaves_what_it_should(db: FeatureDatabase, clock: SteppingClock) -> None:
    db.dead_letters.add([dead("1-0", symbol="AAPL"), dead("2-0", reason="no_market_data", fingerprint="f2")])
    clock.move(days=1)
    db.dead_letters.add([dead("3-0", stream="trades.closed", signal_id="s9")])
    db.dead_letters.mark_discarded(2, "not wanted", actor="ops")

    def ids(**filters: object) -> list[int]:
        return [row.id for row in db.dead_letters.find(Filter(**filters))]  # type: ignore[arg-type]

    assert ids() == [1, 3]
    assert ids(status=None) == [1, 2, 3]
    assert ids(status="discarded") == [2]
    assert ids(status=None, reason="no_market_data") == [2]
    assert ids(stream="trades.closed") == [3]
    assert ids(symbol="AAPL") == [1]
    assert ids(signal_id="s9") == [3]
    assert ids(status=None, fingerprint="f2") == [2]
    assert ids(since="2024-06-02") == [3]
    assert ids(until="2024-06-01") == [1]
    assert [row.id for row in db.dead_letters.find(limit=1)] == [1]
    assert [row.id for row in db.dead_letters.find(limit=1, after_id=1)] == [3]
    assert [row.payload for row in db.dead_letters.find()] == [None, None]
    assert [row.payload for row in db.dead_letters.find(payloads=True, limit=1)] == [dead().payload]


def test_a_replay_settles_once_and_is_audited(db: FeatureDatabase) -> None:
    (number,) = db.dead_letters.add([dead()])
    assert db.counts().dead_letters_open == 1
    assert db.dead_letters.mark_replayed(number, "9-0", actor="ops")
    assert db.dead_letters.mark_replayed(number, "9-1", actor="ops") is False
    assert db.dead_letters.mark_discarded(number, "too late", actor="ops") is False
    assert db.counts().dead_letters_open == 0
    (entry,) = db.dead_letters.audit(number)
    assert (entry.action, entry.actor, entry.detail) == ("replayed", "ops", {"new_entry_id": "9-0"})
    assert (entry.stream, entry.entry_id) == ("signals.created", "1-0")


def test_a_replayed_entry_that_is_dead_lettered_again_stays_replayed(db: FeatureDatabase) -> None:
    (number,) = db.dead_letters.add([dead()])
    db.dead_letters.mark_replayed(number, "9-0", actor="ops")
    db.dead_letters.add([dead(), dead("9-0", replay_of=number)])
    assert [(row.entry_id, row.replay_of) for row in db.dead_letters.find()] == [("9-0", number)]


def test_alike_ones_are_grouped_and_settled_ones_left_out(db: FeatureDatabase) -> None:
    db.dead_letters.add([dead(f"{n}-0") for n in range(3)] + [dead("9-0", fingerprint="f2", reason="bad_json")])
    db.dead_letters.mark_discarded(1, "seen", actor="ops")
    groups = db.dead_letters.groups()
    assert [(group.fingerprint, group.reason, group.count, group.example_id) for group in groups] == [
        ("f1", "lookahead", 2, 3),
        ("f2", "bad_json", 1, 4),
    ]


@pytest.mark.parametrize("sql", ["UPDATE dead_letter_audit SET actor = 'x'", "DELETE FROM dead_letter_audit"])
def test_the_audit_is_append_only(db: FeatureDatabase, sql: str) -> None:
    (number,) = db.dead_letters.add([dead()])
    db.dead_letters.mark_discarded(number, "seen", actor="ops")
    with pytest.raises(StoreError, match="append-only"):
        db._connection.run(sql)
    assert db.dead_letters.audit(number)[0].actor == "ops"


def test_the_audit_outlives_the_dead_letter_and_the_counters_follow(db: FeatureDatabase) -> None:
    db.dead_letters.add([dead("1-0"), dead("2-0")])
    db.dead_letters.mark_discarded(1, "seen", actor="ops")
    db._connection.run("DELETE FROM dead_letters WHERE id IN (1, 2)")
    assert len(db.dead_letters.audit(1)) == 1
    assert (db.counts().dead_letters, db.counts().dead_letters_open) == (0, 0)


def test_only_settled_ones_are_pruned_and_each_is_audited(db: FeatureDatabase, clock: SteppingClock) -> None:
    db.dead_letters.add([dead(f"{n}-0") for n in range(1, 5)])
    db.dead_letters.mark_discarded(1, "seen", actor="ops")
    db.dead_letters.mark_replayed(2, "9-0", actor="ops")
    clock.move(days=1)
    db.dead_letters.add([dead("5-0")])
    db.dead_letters.mark_discarded(5, "seen", actor="ops")
    assert db.dead_letters.prune("2024-06-02", actor="keeper") == 2
    assert [row.id for row in db.dead_letters.find(Filter(status=None))] == [3, 4, 5]
    for number, was in ((1, "discarded"), (2, "replayed")):
        last = db.dead_letters.audit(number)[-1]
        assert (last.action, last.actor, last.detail["was"]) == ("pruned", "keeper", was)
    assert [entry.action for entry in db.dead_letters.audit(3)] == []
