"""Events that could not be used: buried with their original bytes and reason, shown to ops, replayed by them.

A replay appends the original bytes to the original stream: the event keeps its identity and gets a fresh budget of
deliveries. Replayed twice at once, or killed between append and mark, it still has one effect.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
import redis

from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase, NewDeadLetter
from worker import streams
from worker.errors import EventError, Reason
from worker.streams import Entry

_VARYING = re.compile(r"\"[^\"]*\"|'[^']*'|[\w:.+-]*\d[\w:.+-]*")


@dataclass(frozen=True, slots=True)
class Burial:
    """An event to bury: where it came from, why, and what is known of it."""

    entry: Entry
    error: Exception
    attempts: int = 1
    signal_id: str | None = None
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead letter that was appended to its stream again."""

    dead_letter_id: int
    entry_id: str


class DeadLetters:
    """The dead letters of one store.

    Args:
        store: the open store.
        version: this release, kept with each burial.
    """

    def __init__(self, store: FeatureDatabase, *, version: str) -> None:
        self._store = store
        self._version = version

    def bury(self, burials: Sequence[Burial]) -> None:
        """Keep the events with reason and original bytes; an entry that is buried already gets its count raised.

        Raises:
            StoreUnavailable: the store cannot take them now.
        """
        if burials:
            self._store.dead_letters.bury([_row(burial, self._version) for burial in burials])

    def replay(self, client: redis.Redis, letters: Iterable[DeadLetterRow], *, actor: str) -> list[Replayed]:
        """Append each letter's original bytes to the stream it came from, and mark it.

        Args:
            client: a client that does not retry.
            letters: with their payloads; those whose payload was lost have nothing to replay and are passed over.
            actor: who asked, for the audit.

        Raises:
            TransientError: Redis is away; the letters so far are replayed and marked, the others are not.
        """
        done = []
        for letter in letters:
            if letter.payload is None or letter.reason in (Reason.PAYLOAD_LOST, Reason.MISSING_DATA):
                continue
            entry_id = streams.append(client, letter.stream, letter.payload, replay_of=letter.id)
            self._store.dead_letters.mark_replayed(letter.id, entry_id, actor=actor)
            done.append(Replayed(letter.id, entry_id))
        return done


def fingerprint(reason: str, detail: str) -> str:
    """A short hash that is the same for alike failures: what varies (quoted text, words with digits) is left out."""
    shape = _VARYING.sub("*", detail)
    return hashlib.blake2b(f"{reason}|{shape}".encode(), digest_size=6).hexdigest()


def _row(burial: Burial, version: str) -> NewDeadLetter:
    error, entry = burial.error, burial.entry
    if isinstance(error, EventError):
        reason, detail, trace = error.reason.value, error.detail, None
    else:
        reason, detail = Reason.HANDLER_ERROR.value, f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    payload = entry.data if entry.data is not None else b""
    signal_id, symbol = _named(burial, payload)
    return NewDeadLetter(
        stream=entry.stream,
        entry_id=entry.entry_id,
        reason=reason,
        error=detail,
        traceback=trace,
        payload=payload,
        attempts=burial.attempts,
        signal_id=signal_id,
        symbol=symbol,
        worker_version=version,
        fingerprint=fingerprint(reason, detail),
        replay_of=entry.replay_of,
    )


def _named(burial: Burial, payload: bytes) -> tuple[str | None, str | None]:
    """Signal and symbol for the filters: from the event, or read out of what may be no event at all."""
    if burial.signal_id is not None:
        return burial.signal_id, burial.symbol
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(fields, dict):
        return None, None
    return _short_text(fields.get("signal_id")), _short_text(fields.get("symbol"))


def _short_text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 128 else None
