"""Events that could not be used: dead-lettered with their original bytes and reason, shown to ops, replayed by them.

A replay appends an event's bytes to the stream it came from, named by the dead letter and the replay's number: the
event keeps its identity and gets a fresh budget of tries. Sent twice at once, or killed between sending and marking, a
replay takes effect through one entry; the worker knows the others as copies.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase, Filter, NewDeadLetter
from trading_system.ml_refinement.storage.tables.entries import named_apart
from worker.errors import EventError, Reason, RefineryError
from worker.streams.entries import Entry, append
from worker.streams.shards import Streams

if TYPE_CHECKING:
    import redis

# A word is looked at from its first letter only: from each of its letters, one without a digit takes quadratic time.
_VARYING = re.compile(r"\"[^\"]*\"|'[^']*'|(?<![\w:.+-])[\w:.+-]*\d[\w:.+-]*")

_MOST_DETAIL, _MOST_TRACEBACK = 2_000, 20_000
_MOST_COMPARED_LINES, _MOST_CHANGED_LINES, _MOST_LINE = 1_000, 200, 500

_NOTHING_TO_SEND = (Reason.PAYLOAD_LOST, Reason.MISSING_DATA)
#: Reasons that lie with us and not with the bytes: the same bytes can be applied once our side is as it should be.
REPLAY_CAN_HELP = frozenset(
    {
        Reason.TOO_LARGE,
        Reason.UNKNOWN_VERSION,
        Reason.FUTURE_TIMESTAMP,
        Reason.NO_MARKET_DATA,
        Reason.BAD_MARKET_DATA,
        Reason.HANDLER_ERROR,
    }
)
_PAGE = 200
_ASKED_AT_ONCE = 100
_ASKED_BYTES_AT_ONCE = 16 * 1024 * 1024
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event to dead-letter: where it came from, why, and what is known of it."""

    entry: Entry
    error: Exception
    attempts: int = 1
    signal_id: str | None = None
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay came to.

    `sent` names (dead letter, entry id) in order; `skipped` those that have no bytes to send, or were not open any
    more; `handled` how many of the sent ones a worker has handled so far, and `died` how many of these were
    dead-lettered again; `stopped` says why it ended early, None when it did not.
    """

    sent: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    handled: int = 0
    died: int = 0
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How a replay goes.

    Args:
        rate: events a second; None for as fast as they are handled.
        in_flight: most events sent and not handled yet.
        give_up_after_s: how long to wait for a worker that handles nothing, before giving up; 0 waits for nothing.
        judge_after: so many handled ones are enough to stop when more than half of them died again.
    """

    rate: float | None = None
    in_flight: int = 100
    give_up_after_s: float = 15.0
    judge_after: int = 10


class DeadLetters:
    """The dead letters of one store.

    Args:
        store: the open store.
        version: this release, kept with each rejected.
        largest_event: bytes of the largest event that the door parses; a larger one is put away as it is.
    """

    def __init__(self, store: FeatureDatabase, *, version: str, largest_event: int = 1024 * 1024) -> None:
        self._store = store
        self._version = version
        self._largest_event = largest_event

    def add(self, rejected: Sequence[Rejected]) -> None:
        """Keep the events with reason and original bytes; an entry that is dead-lettered already gets its count raised.

        Raises:
            StoreUnavailable: the store cannot take them now.
        """
        if rejected:
            rows = [_row(each, self._version, self._largest_event) for each in rejected]
            with self._store.atomic():
                rows = self._named_apart(rows)
                self._store.dead_letters.add(rows)
                # Another shard may have entered another event of an id while this one waited for it.
                apart = self._named_apart(rows)
                self._store.dead_letters.add(
                    [now for now, before in zip(apart, rows, strict=True) if now is not before]
                )

    def _named_apart(self, rows: Sequence[NewDeadLetter]) -> list[NewDeadLetter]:
        """The rows, under names of their own where a server that was emptied gave an id to another event before."""
        taken = self._store.entries.dead_lettered([(row.stream, row.entry_id) for row in rows])
        return [
            row
            if row.payload == taken.get((row.stream, row.entry_id), row.payload)
            else replace(row, entry_id=named_apart(row.entry_id, row.payload))
            for row in rows
        ]

    def chosen(
        self, ids: Sequence[int], wanted: Filter | None, *, limit: int | None = None, payloads: bool = True
    ) -> Iterator[DeadLetterRow]:
        """The dead letters with these ids, in this order, or those that the filter lets through.

        Payloads are read one at a time: together they may be larger than memory.

        Raises:
            RefineryError: there is no dead letter of an id; nothing was given out before.
        """
        if wanted is None:
            missing = [number for number in ids if self._store.dead_letters.get(number) is None]
            if missing:
                raise RefineryError(f"there is no dead letter {', '.join(map(str, missing))}")
            found = (self._store.dead_letters.get(number) for number in dict.fromkeys(ids))
            rows_by_id = (row for row in found if row is not None)
            yield from islice(
                (row if payloads else replace(row, payload=None, edited=None) for row in rows_by_id), limit
            )
            return
        last, left = 0, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            rows = self._store.dead_letters.find(wanted, limit=size, after_id=last)
            if payloads:
                yield from (whole for row in rows if (whole := self._store.dead_letters.get(row.id)) is not None)
            else:
                yield from rows
            if len(rows) < size:
                return
            last, left = rows[-1].id, None if left is None else left - len(rows)

    def replay(
        self,
        client: redis.Redis,
        letters: Iterable[DeadLetterRow],
        *,
        actor: str,
        streams: Streams | None = None,
        pace: Pace | None = None,
        told: Callable[[ReplayReport], None] = lambda _: None,
    ) -> ReplayReport:
        """Append each open letter's bytes to the stream it came from, and mark it.

        Args:
            client: a client that does not retry.
            letters: with their payloads, as `chosen` gives them.
            actor: who asked, for the audit.
            streams: of the installation, where shards are to be chosen anew: an edit may name another signal.
            pace: how fast, and when to stop; by default waiting for nothing.
            told: is given the report as of then, each time it changes.

        Raises:
            TransientError: Redis is away; the letters so far are replayed and marked, the others are not.
        """
        pace = pace or Pace(give_up_after_s=0)
        report = ReplayReport()
        sent: list[tuple[int, int]] = []
        for letter, request in self._asked(letters, actor):
            if request is None:
                report.skipped.append(letter.id)
                continue
            report, stop = self._before_next(report, sent, pace)
            told(report)
            if stop is not None:
                return replace(report, stopped=stop)
            number = letter.replays + 1
            data = letter.edited if letter.edited is not None else letter.payload or b""
            stream = letter.stream if streams is None else streams.of_again(letter.stream, data)
            entry_id = append(client, stream, data, replay=(letter.id, number), request=request)
            self._store.replays.sent(request, letter.id, entry_id)
            sent.append((letter.id, number))
            report.sent.append((letter.id, entry_id))
            if pace.rate is not None:
                time.sleep(1 / pace.rate)
        return self._settled(report, sent, pace, most_unhandled=0, told=told)

    def _asked(self, letters: Iterable[DeadLetterRow], actor: str) -> Iterator[tuple[DeadLetterRow, int | None]]:
        """Each letter with the request to replay it, kept before it is sent; None where there is nothing to send."""
        for page in _pages(letters):
            wanted = [(letter.id, letter.replays + 1) for letter in page if _can_be_sent(letter)]
            requests = iter(self._store.replays.ask(wanted, actor=actor) if wanted else ())
            for letter in page:
                yield letter, next(requests) if _can_be_sent(letter) else None

    def _before_next(
        self, report: ReplayReport, sent: Sequence[tuple[int, int]], pace: Pace
    ) -> tuple[ReplayReport, str | None]:
        """The report as of now, and why nothing more is to be sent, if so."""
        if pace.give_up_after_s == 0 or len(sent) < pace.judge_after:
            return report, None
        report = self._settled(report, sent, pace, most_unhandled=pace.in_flight - 1)
        if report.handled >= pace.judge_after and report.died * 2 > report.handled:
            return report, f"{report.died} of {report.handled} that were handled died again; the cause is still there"
        if len(sent) - report.handled >= pace.in_flight:
            return report, f"no worker handled anything for {pace.give_up_after_s:g} s: is one running?"
        return report, None

    def _settled(
        self,
        report: ReplayReport,
        sent: Sequence[tuple[int, int]],
        pace: Pace,
        *,
        most_unhandled: int,
        told: Callable[[ReplayReport], None] = lambda _: None,
    ) -> ReplayReport:
        """The report once few enough are unhandled, or once nothing has moved for longer than we wait."""
        moved = time.monotonic()
        while True:
            progress = self._store.replays.progress(sent)
            if progress.handled != report.handled:
                moved = time.monotonic()
            report = replace(report, handled=progress.handled, died=progress.died)
            told(report)
            if len(sent) - report.handled <= most_unhandled or time.monotonic() - moved >= pace.give_up_after_s:
                return report
            time.sleep(_LOOK_EVERY_S)

    def discard(self, letters: Iterable[DeadLetterRow], reason: str, *, actor: str) -> list[int]:
        """Mark open letters as not wanted, for the reason given; the numbers of those that were open."""
        return [row.id for row in letters if self._store.dead_letters.mark_discarded(row.id, reason, actor=actor)]

    def edit(self, letter: DeadLetterRow, edited: bytes, *, actor: str) -> str:
        """Let replays of an open letter send `edited`; the original is kept, and the difference is in the audit.

        Returns the difference between the original and `edited`, a line for each JSON field.

        Raises:
            RefineryError: the letter is not open (any more), or the bytes are what a replay sends already.
        """
        original = letter.payload or b""
        if edited == (original if letter.edited is None else letter.edited):
            raise RefineryError(f"dead letter {letter.id} is not changed by this")
        changes = difference(original, edited)
        detail = {"difference": changes, "sha256": hashlib.sha256(edited).hexdigest()}
        if not self._store.dead_letters.edit(letter.id, edited, detail, actor=actor):
            raise RefineryError(f"dead letter {letter.id} is not open any more")
        return changes


def replay_helps(reason: str, *, edited: bool = False) -> bool | None:
    """Whether a replay can be applied where the first try was not; None where there is nothing to send."""
    if reason in _NOTHING_TO_SEND:
        return None
    return edited or reason in REPLAY_CAN_HELP


def _can_be_sent(letter: DeadLetterRow) -> bool:
    has_bytes = bool(letter.payload if letter.edited is None else letter.edited)
    return letter.status == "open" and has_bytes and letter.reason not in _NOTHING_TO_SEND


def _pages(letters: Iterable[DeadLetterRow]) -> Iterator[list[DeadLetterRow]]:
    """The letters a few at a time, by number and by bytes."""
    page: list[DeadLetterRow] = []
    size = 0
    for letter in letters:
        page.append(letter)
        size += len(letter.payload or b"") + len(letter.edited or b"")
        if len(page) >= _ASKED_AT_ONCE or size >= _ASKED_BYTES_AT_ONCE:
            yield page
            page, size = [], 0
    if page:
        yield page


def difference(original: bytes, edited: bytes) -> str:
    """The difference as a unified diff, of one JSON field a line where both are JSON; long lines are cut, and many."""
    before, after = _lines(original), _lines(edited)
    if max(len(before), len(after)) > _MOST_COMPARED_LINES:
        return f"{len(before)} lines of {len(original)} bytes became {len(after)} lines of {len(edited)} bytes"
    changed = list(difflib.unified_diff(before, after, "original", "edited", lineterm="", n=0))
    more = len(changed) - _MOST_CHANGED_LINES
    shown = [_cut(line, _MOST_LINE) for line in changed[:_MOST_CHANGED_LINES]]
    return "\n".join([*shown, f"... {more} lines more"] if more > 0 else shown)


def _lines(payload: bytes) -> list[str]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode("utf-8", "backslashreplace").splitlines()
    if not isinstance(value, dict):
        return [orjson.dumps(value).decode()]
    return [f"{orjson.dumps(name).decode()}: {orjson.dumps(value[name]).decode()}" for name in sorted(value)]


def fingerprint(reason: str, detail: str) -> str:
    """A short hash that is the same for alike failures: what varies (quoted text, words with digits) is left out."""
    shape = _VARYING.sub("*", detail)
    return hashlib.blake2b(f"{reason}|{shape}".encode(), digest_size=6).hexdigest()


def _cut(text: str, most: int) -> str:
    """The text; of a long one the beginning and the end, with how much is left out."""
    if len(text) <= most:
        return text
    begin, end = text[: most * 2 // 3], text[-most // 3 :]
    return f"{begin}[... {len(text) - len(begin) - len(end)} characters ...]{end}"


def _row(rejected: Rejected, version: str, largest_event: int) -> NewDeadLetter:
    error, entry = rejected.error, rejected.entry
    if isinstance(error, EventError):
        reason, detail, trace = error.reason.value, _cut(error.detail, _MOST_DETAIL), None
        alike = _cut(error.alike, _MOST_DETAIL)
    else:
        reason, detail = Reason.HANDLER_ERROR.value, _cut(f"{type(error).__name__}: {error}", _MOST_DETAIL)
        alike = detail
        trace = _cut("".join(traceback.format_exception(error)), _MOST_TRACEBACK)
    payload = entry.data if entry.data is not None else b""
    # What was too large to be parsed at the door is not parsed here either.
    signal_id, symbol = _named(rejected, payload if len(payload) <= largest_event else b"")
    return NewDeadLetter(
        stream=entry.stream,
        entry_id=entry.entry_id,
        reason=reason,
        error=detail,
        traceback=trace,
        payload=payload,
        attempts=rejected.attempts,
        signal_id=signal_id,
        symbol=symbol,
        worker_version=version,
        fingerprint=fingerprint(reason, alike),
        replay_of=entry.replay[0] if entry.replay else None,
    )


def _named(rejected: Rejected, payload: bytes) -> tuple[str | None, str | None]:
    """Signal and symbol for the filters: from the event, or read out of what may be no event at all."""
    if rejected.signal_id is not None:
        return rejected.signal_id, rejected.symbol
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(fields, dict):
        return None, None
    return _short_text(fields.get("signal_id")), _short_text(fields.get("symbol"))


def _short_text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 128 else None


_SUMMARY_FIELDS = ("id", "stream", "entry_id", "reason", "error", "attempts", "first_seen", "last_seen", "signal_id")


_MORE_FIELDS = ("symbol", "status", "fingerprint", "worker_version", "replay_of")


def letter_fields(row: DeadLetterRow) -> dict[str, Any]:
    """A dead letter without its payload."""
    return {name: getattr(row, name) for name in (*_SUMMARY_FIELDS, *_MORE_FIELDS)}


def whole_letter(row: DeadLetterRow) -> dict[str, Any]:
    """A dead letter with its bytes: base64, since they may be no text, and as text where they are."""
    whole = letter_fields(row) | {"traceback": row.traceback, "replays": row.replays}
    for name, data in (("payload", row.payload or b""), ("edited", row.edited)):
        whole[f"{name}_base64"] = None if data is None else base64.b64encode(data).decode()
        try:
            whole[f"{name}_text"] = None if data is None else data.decode()
        except UnicodeDecodeError:
            whole[f"{name}_text"] = None
    return whole
