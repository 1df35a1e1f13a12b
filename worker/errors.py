"""Errors, cut by what the caller does about them, and the closed list of reasons an event is dead-lettered for.

| class | what the caller does |
|---|---|
| `ConfigurationError` | stops the start, prints the one line, exits 1 |
| `DecodeError`, `EventRejected` | dead-letters the event under its reason; the events around it go on |
| `StoreUnusable` | stops the worker: nothing is acked, no event is charged, exit 1 |
| `TransientError` and below | pauses with capped back-off and tries again; the event is not charged |
| anything else | retries the event alone; when its tries are used up, dead-letters it as `Reason.HANDLER_ERROR` |
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why an event is in the dead letters. Closed: ops filter on these, producers code against them.

    Attributes:
        advice: what it means and what helps, in a sentence or two for people.
    """

    advice: str

    def __new__(cls, code: str, advice: str) -> Reason:
        """The member that is written, read and compared as `code`."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.advice = advice
        return member

    BAD_ENCODING = (
        "bad_encoding",
        "Not valid UTF-8, half a surrogate pair, or a byte order mark. "
        "Fix the producer's encoding, then publish again.",
    )
    BAD_JSON = (
        "bad_json",
        "Not one JSON object: a syntax error, trailing text, another top-level type, too deep. Fix the producer.",
    )
    TOO_LARGE = (
        "too_large",
        "More bytes than `REFINERY_MAX_EVENT_BYTES`, or more bars or features than the contract allows. "
        "Send less, or raise it.",
    )
    MISSING_DATA = (
        "missing_data",
        "The stream entry has no field `data`, so there is no event in it. Fix how the producer calls XADD.",
    )
    DUPLICATE_KEY = (
        "duplicate_key",
        "A JSON object names a key twice, so that two readers could see two different events. Fix the producer.",
    )
    SCHEMA = (
        "schema",
        "A field is missing, has another type, or breaks a rule of its own; the error names it. Fix the producer.",
    )
    UNKNOWN_VERSION = (
        "unknown_version",
        "`schema_version` is one that this release does not know. Upgrade the worker, then replay.",
    )
    BAD_NUMBER = (
        "bad_number",
        "A number is not finite, or is so large or so small that it cannot be meant. Fix the producer.",
    )
    BAD_TIME = (
        "bad_time",
        "A time has no offset, is not RFC 3339, or lies in an absurd year (before 1980, after 2100). Fix the producer.",
    )
    FUTURE_TIMESTAMP = (
        "future_timestamp",
        "The event lies further ahead of our clock than `REFINERY_MAX_FUTURE_S`. Compare the clocks, then replay.",
    )
    BAD_BARS = (
        "bad_bars",
        "Columns of unequal length, times that do not increase, or a bar that contradicts itself. Fix the producer.",
    )
    LOOKAHEAD = (
        "lookahead",
        "A bar of the event closes after the signal's timestamp. Fix the producer; this is never repaired.",
    )
    BAD_NEWS = (
        "bad_news",
        "A news item has a sentiment or a relevance out of range, or no time. Fix the producer.",
    )
    IDENTITY_CONFLICT = (
        "identity_conflict",
        "A signal with this id and other content is already stored. The first one stands; give the other its own id.",
    )
    OUTCOME_CONFLICT = (
        "outcome_conflict",
        "This revision of the outcome is stored with other content. Correct an outcome with a higher `revision`.",
    )
    CLOSED_BEFORE_SIGNAL = (
        "closed_before_signal",
        "The trade closed before its signal was known. Check the tracker's times and which signal it refers to.",
    )
    NO_MARKET_DATA = (
        "no_market_data",
        "No bars in the event and none for the symbol in the market-data source. Supply them, then replay.",
    )
    BAD_MARKET_DATA = (
        "bad_market_data",
        "The market-data source has the symbol; its file breaks a rule or contradicts itself. Repair it, then replay.",
    )
    PAYLOAD_LOST = (
        "payload_lost",
        "The stream was trimmed before the event was handled; nothing of it is left. "
        "Ask the producer to publish again.",
    )
    HANDLER_ERROR = (
        "handler_error",
        "Handling it failed unexpectedly as often as `REFINERY_MAX_DELIVERIES` allows. "
        "Read the traceback, fix, replay.",
    )


class RefineryError(Exception):
    """Anything this worker raises on purpose."""


class ConfigurationError(RefineryError):
    """A setting or the machine is not as it must be to start. The message is one line and names what to change."""


class NoStore(RefineryError):
    """There is no store where the settings say."""


class EventError(RefineryError):
    """One event cannot be used, and trying again would not help: it is dead-lettered under its reason.

    Attributes:
        reason: from the closed list.
        detail: every fault in words for people, with the value at fault; never the whole input.
        alike: what is the same for all events that fail alike: no value stands in it.
        faults: the single faults of the detail, the first of which the reason is about.
    """

    def __init__(
        self, reason: Reason, detail: str, *, alike: str | None = None, faults: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.alike = detail if alike is None else alike
        self.faults = (detail,) if faults is None else faults

    def __reduce__(self) -> tuple[Callable[..., EventError], tuple[Any, ...]]:
        return _event_error, (type(self), self.reason, self.detail, self.alike, self.faults)


def _event_error(
    kind: type[EventError], reason: Reason, detail: str, alike: str, faults: tuple[str, ...]
) -> EventError:
    """What `pickle` makes of one in another process."""
    return kind(reason, detail, alike=alike, faults=faults)


class DecodeError(EventError):
    """The bytes are no event: refused at the door, before anything was looked up."""


class EventRejected(EventError):
    """The event is well formed and contradicts what is stored, or lacks what it needs."""


class TransientError(RefineryError):
    """Our own side is at fault (store locked, disk full, Redis away): pause, ack nothing, charge no event."""


class AnotherInstallation(TransientError):
    """Another installation handles the streams; the message says which, and what to do."""


class CopyAtWork(TransientError):
    """A copy of this very store works on the streams just now."""


class StoreUnusable(RefineryError):
    """The store is damaged: stop at once, ack nothing, charge no event; the message says what to do."""


class WorkerDied(RefineryError):
    """Every try of an event ended with the death of the worker that made it."""


class ServerBusy(RefineryError):
    """Another process owns what this one wanted to own alone, as the embedded server's directory."""


class StopRequested(RefineryError):
    """A waiting operation was ended because the process is stopping."""
