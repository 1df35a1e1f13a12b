"""What a refusal says: every fault of the event, each with its value, in words, and grouped as before."""

from __future__ import annotations

import pickle

import orjson
import pytest

from tests.support.valid_events import outcome, read, signal, text
from worker.dead_letters import fingerprint
from worker.errors import DecodeError, Reason
from worker.events.faults import shown
from worker.events.models import PATTERN_WORDS, json_schema


def refusal(kind: str, **changes: object) -> DecodeError:
    event = signal(**changes) if kind == "signal.created" else outcome(**changes)
    with pytest.raises(DecodeError) as refused:
        read(kind, text(event))
    return refused.value


def test_every_fault_of_an_event_is_told_with_its_value() -> None:
    error = refusal(
        "signal.created",
        signal_id="a b",
        timestamp="2024-01-31 21:00",
        direction="up",
        technical_score=11.5,
        features={"edge": "x"},
        bars={"timestamp": []},
    )
    assert error.reason is Reason.SCHEMA
    assert error.faults == (
        'signal_id: must be 1 to 128 of A-Z, a-z, 0-9, _ . : and -, and is "a b"',
        "direction: must be 'long' or 'short', and is \"up\"",
        "technical_score: must be at most 10, and is 11.5",
        'timestamp: not RFC 3339 with an offset, such as 2024-01-31T21:00:00Z, and is "2024-01-31 21:00"',
        "bars.open: missing",
        'features.edge: not a number, and is "x"',
    )
    assert error.detail == "; ".join(error.faults)


def test_the_reason_is_that_of_the_first_fault_whatever_others_there_are() -> None:
    assert refusal("signal.created", timestamp="2099-01-01T00:00:00Z", features={"edge": "x"}).reason is (
        Reason.FUTURE_TIMESTAMP
    )
    assert refusal("trade.closed", r_multiple=5000, closed_at="2099-01-01T00:00:00Z").reason is Reason.FUTURE_TIMESTAMP


def test_both_faults_of_an_outcome_are_told_once_each() -> None:
    error = refusal("trade.closed", r_multiple=5000, closed_at="2099-01-01T00:00:00Z")
    assert error.faults == (
        'closed_at: more than 300 s ahead of our clock, and is "2099-01-01T00:00:00Z"',
        "r_multiple: more than 1000 in size, and is 5000",
    )


def test_an_event_of_another_version_is_told_of_its_version_alone() -> None:
    error = refusal("signal.created", schema_version=2, signal_id="a b")
    assert (error.reason, error.detail) == (Reason.UNKNOWN_VERSION, "schema_version: must be 1, and is 2")


def test_no_pattern_is_shown_to_people() -> None:
    for name in ("signal_id", "symbol", "asset_class", "signal_type", "conviction"):
        detail = refusal("signal.created", **{name: "\x00"}).detail
        assert "^" not in detail
        assert "pattern" not in detail
        assert detail.startswith(f"{name}: must be ")
    patterns = {
        one["pattern"]
        for kind in ("signal.created", "trade.closed")
        for field in json_schema(kind)["properties"].values()
        for one in (field, *field.get("anyOf", ()))
        if "pattern" in one
    }
    assert len(patterns - PATTERN_WORDS.keys()) == 1, "the symbol's, which has words of its own"


@pytest.mark.parametrize("kind", ["signal.created", "trade.closed"])
def test_no_text_of_an_event_holds_a_nul(kind: str) -> None:
    """But for what news says, which no column keeps."""
    texts = [
        name
        for name, field in json_schema(kind)["properties"].items()
        if "string" in (one.get("type") for one in (field, *field.get("anyOf", ())))
    ]
    assert {"signal.created": "symbol", "trade.closed": "exit_reason"}[kind] in texts
    for name in texts:
        reason = Reason.BAD_TIME if name in ("timestamp", "closed_at") else Reason.SCHEMA
        for value in ("\x00", "high\x00", "2024-05-31T20:00:00Z\x00"):
            assert refusal(kind, **{name: value}).reason is reason, name


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x" * 500, '"' + "x" * 76 + "..."),
        ("rediss://ops:s3cr3t@host:1/0", '"rediss://***@host:1/0"'),
        ("https://h/?token=s3cr3t", '"https://h/?token=***"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ([1, 2, 3], "a list of 3"),
        ({"a": {}}, "an object of 1"),
        (None, "null"),
        (1.5, "1.5"),
    ],
)
def test_a_value_is_masked_and_cut(value: object, said: str) -> None:
    assert shown(value) == said
    assert len(shown(value)) <= 80


def test_events_that_fail_alike_are_one_group_whatever_their_values() -> None:
    first = refusal("signal.created", technical_score=11.5, signal_id="one")
    other = refusal("signal.created", technical_score=99.25, signal_id="two")
    assert first.detail != other.detail
    assert fingerprint(first.reason, first.alike) == fingerprint(other.reason, other.alike)


def test_a_refusal_of_an_import_in_another_process_says_the_same() -> None:
    error = refusal("trade.closed", r_multiple="x", revision=-1)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (again.reason, again.detail, again.alike, again.faults, str(again)) == (
        error.reason,
        error.detail,
        error.alike,
        error.faults,
        str(error),
    )


def test_a_credential_in_an_event_does_not_reach_the_words() -> None:
    detail = refusal("signal.created", symbol=" redis://u:s3cr3t@h ").detail
    assert "s3cr3t" not in detail
    assert orjson.dumps(detail)
