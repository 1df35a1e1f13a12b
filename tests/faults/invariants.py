"""The invariant of conservation: every entry has one end, every event one effect, every answer is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.support.events import SCORES, SIGNALS, TRADES
from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.counters import totals
from trading_system.ml_refinement.storage.engines import engine_at
from trading_system.ml_refinement.storage.tables.entries import id_given
from worker.streams.shards import entry_stored_as, stream_of_shard

Key = tuple[str, str]
#: Of stores that have more than one.
SHARDS = 4

SETTLED = """
    SELECT 'signals.created', entry_id FROM feature_vectors WHERE entry_id IS NOT NULL
    UNION ALL SELECT 'trades.closed', entry_id FROM trade_outcomes WHERE entry_id IS NOT NULL
    UNION ALL SELECT stream, entry_id FROM duplicate_events
    UNION ALL SELECT stream, entry_id FROM dead_letters"""
COUNTED = {
    "signals": "SELECT count(*) FROM feature_vectors",
    "labelled": "SELECT count(*) FROM feature_vectors WHERE target_r_multiple IS NOT NULL",
    "outcomes": "SELECT count(*) FROM trade_outcomes",
    "duplicates": "SELECT count(*) FROM duplicate_events",
    "dead_letters": "SELECT count(*) FROM dead_letters",
    "dead_letters_open": "SELECT count(*) FROM dead_letters WHERE status = 'open'",
    "waiting_outcomes": (
        "SELECT count(*) FROM trade_outcomes WHERE signal_id NOT IN (SELECT signal_id FROM feature_vectors)"
    ),
}


@dataclass
class Verdict:
    """What was found wrong. Empty lists are what we want."""

    lost: list[Key] = field(default_factory=list)
    double: list[Key] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.double or self.other)


def settled(place: str | Path) -> Counter[Key]:
    """How many ends each entry has, by the tables themselves; two that a server gave one id are one here."""
    connection = engine_at(place, read_only=True).connection
    try:
        return Counter(entry_stored_as(id_given(name), stream) for stream, name in connection.query(SETTLED))
    finally:
        connection.close()


def judge(
    place: str | Path,
    client: redis.Redis,
    *,
    must: Iterable[Key],
    may: Iterable[Key] = (),
    twice: Iterable[Key] = (),
    labels: Mapping[str, set[float | None]],
    earlier: Iterable[bytes] = (),
) -> Verdict:
    """Hold the store against what was sent.

    Args:
        must: entries that must have exactly one end.
        may: entries that may have one, and never two: the server lost them before anyone had read them.
        twice: ids of `must` that stood for a lost entry before: they may have an end for each of the two.
        labels: for each signal that must be stored, the labels that would be right.
        earlier: scores that may be published though the store, which was put back, does not know them.
    """
    must, may, twice = set(must), set(may), set(twice)
    verdict = Verdict()
    found = settled(place)
    for key in must:
        if found[key] == 0:
            verdict.lost.append(key)
    known = {*must, *may}
    verdict.double = [key for key, count in found.items() if count > 1 + (key in twice)]
    verdict.other += [f"{key} is in the store and was never sent" for key in found if key not in known]
    engine = engine_at(place, read_only=True)
    connection = engine.connection
    try:
        if found_damage := engine.damage():
            verdict.other.append(f"the store is damaged: {found_damage}")
        _judge_content(connection, labels, verdict)
        _judge_scores(connection, client, set(earlier), verdict)
        _judge_bytes(connection, client, must - may - twice, verdict)
    finally:
        connection.close()
    return verdict


def _judge_content(connection: Connection, labels: Mapping[str, set[float | None]], verdict: Verdict) -> None:
    stored = dict(connection.query("SELECT signal_id, target_r_multiple FROM feature_vectors"))
    for signal_id, right in labels.items():
        if signal_id not in stored:
            verdict.other.append(f"{signal_id} is not stored")
        elif stored[signal_id] not in right:
            verdict.other.append(f"{signal_id} is labelled {stored[signal_id]}, not one of {right}")
    counters = totals(connection)
    for name, sql in COUNTED.items():
        if counters[name] != connection.query(sql)[0][0]:
            verdict.other.append(f"the counter {name} says {counters[name]}, not {connection.query(sql)[0][0]}")
    if connection.query("SELECT * FROM waiting_payloads NATURAL JOIN feature_vectors"):
        verdict.other.append("bytes are kept of outcomes that wait for nothing any more")


def _judge_scores(connection: Connection, client: redis.Redis, earlier: set[bytes], verdict: Verdict) -> None:
    served = {bytes(payload) for (payload,) in connection.query("SELECT payload FROM served_scores")}
    unpublished, made_up = served - published(client), published(client) - served - earlier
    if unpublished or made_up:
        verdict.other.append(f"{len(unpublished)} scores unpublished, {len(made_up)} made up")


def published(client: redis.Redis) -> set[bytes]:
    """Every score that is in a stream of them."""
    rows: Any = [row for stream in _shards(SCORES) for row in client.xrange(stream)]  # type: ignore[union-attr]
    return {fields[b"data"] for _, fields in rows}


def _shards(*names: str) -> Iterator[str]:
    """What streams may be called, with one shard and with more."""
    for name in names:
        yield name
        yield from (stream_of_shard(name, shard) for shard in range(SHARDS))


def _judge_bytes(connection: Connection, client: redis.Redis, known: set[Key], verdict: Verdict) -> None:
    """A dead letter has the bytes of its entry, where the server still has it and never gave its id out twice."""
    sent = {
        (stream, entry_id.decode()): fields.get(b"data", b"")
        for stream in _shards(SIGNALS, TRADES)
        for entry_id, fields in client.xrange(stream)  # type: ignore[union-attr]
    }
    for stream, entry_id, payload in connection.query("SELECT stream, entry_id, payload FROM dead_letters"):
        key = stream, entry_id
        if key in known and sent.get(key, payload) != payload:
            verdict.other.append(f"the dead letter of {stream} {entry_id} has other bytes than its entry")


def entries_of(client: redis.Redis) -> list[Key]:
    """Every entry that is in the input streams."""
    return [
        (stream, entry_id.decode())
        for stream in _shards(SIGNALS, TRADES)
        for entry_id, _ in client.xrange(stream)  # type: ignore[union-attr]
    ]
