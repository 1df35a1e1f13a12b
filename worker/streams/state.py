"""What ops want to know of a stream: length, pending, lag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from worker.streams.errors import translated
from worker.streams.losses import Noticed, PassedOver, noticed_of


@dataclass(frozen=True, slots=True)
class StreamState:
    """What ops want to know of one stream. `lag` is None where the server cannot tell (after an XDEL)."""

    name: str
    length: int
    pending: int
    lag: int | None
    #: So many entries were ever trimmed or deleted by others before a worker had read them, and when that was noticed.
    unread_gone: int = 0
    unread_gone_at: datetime | None = None
    #: How far the stream's last id is ahead of our clock; 0 where it is less than an hour.
    ahead_s: float = 0.0
    #: Whether that id is the last that there can be.
    at_end: bool = False
    #: What somebody moved the group past, and the group.
    passed_over: PassedOver | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Reader:
    """A group of those who read the scores. `lag` is None where the server cannot tell."""

    group: str
    pending: int
    lag: int | None


def most_times(client: redis.Redis, keys: Iterable[str]) -> int:
    """The largest of the counts that watches keep in the field `times` of these hashes; 0 for none.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        times: list[Any] = [client.hget(key, "times") for key in keys]
    return max(int(number or 0) for number in times)


def readers_of(client: redis.Redis, streams: Sequence[str], *, most: int = 50) -> tuple[int, list[Reader]]:
    """How long streams of ours are together, and their consumer groups, so many at most, each over all the streams.
    Nobody sees who reads without a group.

    Raises:
        TransientError: Redis is away.
    """
    length, by_name = 0, dict[bytes, Reader]()
    with translated():
        for stream in streams:
            if not client.exists(stream):
                continue
            length += int(client.xlen(stream))
            groups: Any = client.xinfo_groups(stream)
            for row in groups:
                known = by_name.get(row["name"], Reader(row["name"].decode(errors="backslashreplace"), 0, 0))
                lag = row.get("lag")
                lag = None if lag is None or known.lag is None else known.lag + lag
                by_name[row["name"]] = Reader(known.group, known.pending + int(row["pending"]), lag)
    return length, list(by_name.values())[:most]


def stream_states(client: redis.Redis, streams: Sequence[str], group: str) -> list[StreamState]:
    """Length, pending and lag of each stream; zeros where stream or group do not exist yet.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        return [_state(client, stream, group) for stream in streams]


def _state(client: redis.Redis, stream: str, group: str) -> StreamState:
    length = int(client.xlen(stream))
    pending, lag = 0, length
    groups: Any = client.xinfo_groups(stream) if client.exists(stream) else ()
    for row in groups:
        if row["name"] == group.encode():
            pending, lag = int(row["pending"]), row.get("lag")
    seen = _noticed(client, stream, group)
    ahead_s = seen.ahead_s(datetime.now(UTC))
    return StreamState(stream, length, pending, lag, seen.gone, seen.at, ahead_s, seen.at_end, seen.passed_over, group)


def _noticed(client: redis.Redis, stream: str, group: str) -> Noticed:
    try:
        return noticed_of(client, stream, group)
    except redis.ResponseError:  # this user may not see it, or the key is something else
        return Noticed()


def is_replica(client: redis.Redis) -> bool:
    """Whether the server follows another one, and takes no writes; False where we may not ask.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        client.ping()
        try:
            replication: Any = client.info("replication")
        except redis.exceptions.NoPermissionError:
            return False
    return bool(replication.get("role") == "slave")


def handled_through(client: redis.Redis, stream: str, group: str) -> tuple[int, int] | None:
    """The entry id, as a number, up to which the group has read and acknowledged all; None where there is no group.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        groups: Any = client.xinfo_groups(stream) if client.exists(stream) else ()
        found = next((row for row in groups if row["name"] == group.encode()), None)
        if found is None:
            return None
        pending: Any = client.xpending(stream, group) if found["pending"] else {"pending": 0}
    if not pending["pending"]:
        return number_of(found["last-delivered-id"].decode())
    milliseconds, sequence = number_of(pending["min"].decode())
    return (milliseconds, sequence - 1) if sequence else (milliseconds - 1, 2**64 - 1)


def number_of(entry_id: str) -> tuple[int, int]:
    """An entry id as numbers, which are ordered as entries are."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
