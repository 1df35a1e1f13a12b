"""Replays of dead letters: each takes effect through one entry, however often it was sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from trading_system.ml_refinement.actors import UNKNOWN
from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.tables.dead_letters import DeadLetterTable
from trading_system.ml_refinement.storage.times import Clock, utc_text


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay of a dead letter, named by the two numbers, and one entry that carries it."""

    dead_letter_id: int
    number: int
    stream: str
    entry_id: str
    payload: bytes
    #: The request that it was sent for, as the entry says.
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """What became of some replays: handled by a worker, and of these, dead-lettered again."""

    handled: int
    died: int


class Replays:
    """The tables `replays` and `replay_requests`.

    A replay is asked for before it is sent, so that whoever enters it into the audit, the one who sent it or a worker
    that was faster or came after a kill, knows who asked. Each entry that was sent is in the audit once.
    """

    def __init__(self, connection: Connection, dead_letters: DeadLetterTable, clock: Clock) -> None:
        self._connection = connection
        self._dead_letters = dead_letters
        self._clock = clock

    def carriers(self, replays: Sequence[Replay]) -> dict[tuple[int, int], tuple[str, str] | None]:
        """The (stream, entry id) that each replay took effect through, None while it has not.

        Keyed by (dead letter, number). One that is not here is no replay: no such dead letter, or other bytes.
        """
        known: dict[tuple[int, int], tuple[str, str] | None] = {}
        for replay in replays:
            row = self._connection.one(SENT, (replay.number, replay.dead_letter_id))
            if row is not None and replay.stream == row[0] and replay.payload in row[1:3]:
                known[replay.dead_letter_id, replay.number] = None if row[4] is None else (row[3], row[4])
        return known

    def ask(self, replays: Sequence[tuple[int, int]], *, actor: str) -> list[int]:
        """Note who is about to send the replays (dead letter, number); the requests' numbers, in order."""
        now = utc_text(self._clock())
        with self._connection.atomic():
            rows = [(*replay, actor, now) for replay in replays]
            return [int(number) for (number,) in self._connection.run_many(ASK, rows)]

    def sent(self, request: int, dead_letter_id: int, entry_id: str) -> bool:
        """Enter into the audit that a request was sent as this entry. False when it is there, or is no such request."""
        with self._connection.atomic():
            found = self._connection.query(SENT_AS, (entry_id, request, dead_letter_id))
            for (actor,) in found:
                self._dead_letters.note_sent(dead_letter_id, entry_id, actor=actor)
        return bool(found)

    def take_effect(self, replays: Sequence[Replay]) -> None:
        """Note the entry that each replay takes effect through, and that its dead letter is no longer open."""
        now = utc_text(self._clock())
        with self._connection.atomic():
            for replay in replays:
                key = (replay.dead_letter_id, replay.number)
                self._connection.run(TAKE_EFFECT, (*key, replay.stream, replay.entry_id, now))
                if replay.request is None or not self.sent(replay.request, replay.dead_letter_id, replay.entry_id):
                    self._dead_letters.mark_replayed(replay.dead_letter_id, replay.entry_id, actor=UNKNOWN)

    def progress(self, replays: Iterable[tuple[int, int]]) -> ReplayProgress:
        """What became of the replays (dead letter, number)."""
        handled, died = self._connection.query(PROGRESS, (orjson.dumps(list(replays)).decode(),))[0]
        return ReplayProgress(int(handled), int(died))


SENT = """
    SELECT d.stream, d.payload, d.edited, r.stream, r.entry_id
    FROM dead_letters AS d LEFT JOIN replays AS r ON r.dead_letter_id = d.id AND r.number = ?1
    WHERE d.id = ?2 AND ?1 BETWEEN 1 AND d.replays + 1"""
TAKE_EFFECT = """
    INSERT INTO replays (dead_letter_id, number, stream, entry_id, handled_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING"""
ASK = """
    INSERT INTO replay_requests (dead_letter_id, number, actor, asked_at) VALUES (?, ?, ?, ?) RETURNING id"""
SENT_AS = """
    UPDATE replay_requests SET entry_id = ?1 WHERE id = ?2 AND dead_letter_id = ?3 AND entry_id IS NULL
    RETURNING actor"""
PROGRESS = Statement(
    """
    SELECT count(*), count(d.id) FROM json_each(?) AS wanted
    CROSS JOIN replays AS r ON r.dead_letter_id = wanted.value ->> 0 AND r.number = wanted.value ->> 1
    LEFT JOIN dead_letters AS d ON d.stream = r.stream AND d.entry_id = r.entry_id""",
    postgres="""
    SELECT count(*), count(d.id) FROM jsonb_array_elements(CAST(? AS jsonb)) AS wanted
    JOIN replays AS r ON r.dead_letter_id = CAST(wanted.value ->> 0 AS BIGINT)
        AND r.number = CAST(wanted.value ->> 1 AS BIGINT)
    LEFT JOIN dead_letters AS d ON d.stream = r.stream AND d.entry_id = r.entry_id""",
)
