"""Shards: which one an event belongs to, what its streams are called, and what the store knows its entries by."""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Iterator
from typing import Literal, NamedTuple

import orjson

EventKind = Literal["signal.created", "trade.closed"]
_OF_SHARD = re.compile(r"\{r([0-9]+)\}\.(.+)", re.DOTALL)


def shard_of(signal_id: str, shards: int) -> int:
    """The shard of a signal and of its outcomes, in [0, shards): CRC16 (XMODEM) of the id, as Redis Cluster has it."""
    return crc_hqx(signal_id.encode(), 0) % shards


def tag_of_shard(shard: int) -> str:
    """What the names of a shard's streams begin with: a hash tag, which keeps them on one server of a cluster."""
    return f"{{r{shard}}}"


def stream_of_shard(name: str, shard: int) -> str:
    """What a shard calls one of its streams."""
    return f"{tag_of_shard(shard)}.{name}"


def plain_name(stream: str) -> str:
    """What a stream is called without its shard."""
    match = _OF_SHARD.fullmatch(stream)
    return stream if match is None else match[2]


def stored_id(stream: str, entry_id: str) -> str:
    """What the store knows an entry by where it keeps no stream: shards give out the same ids."""
    if not stream.startswith("{"):
        return entry_id
    match = _OF_SHARD.fullmatch(stream)
    return entry_id if match is None else f"{entry_id}@{match[1]}"


def entry_stored_as(known: str, name: str) -> tuple[str, str]:
    """Stream and id of the entry that the store knows by `stored_id`; `name` is the stream's without its shard."""
    entry_id, _, shard = known.partition("@")
    return (stream_of_shard(name, int(shard)) if shard else name), entry_id


class ShardStreams(NamedTuple):
    """The streams of one shard."""

    signals_created: str
    trades_closed: str
    signals_scored: str

    @property
    def inputs(self) -> tuple[str, str]:
        """Those that the worker reads."""
        return self.signals_created, self.trades_closed


class Streams:
    """The streams of an installation: three, or three for each shard.

    Args:
        names: what they are called, without a shard.
        shards: how many there are.
        tagged: whether one shard alone has a hash tag too, as a cluster needs it.
    """

    def __init__(self, names: ShardStreams, shards: int = 1, *, tagged: bool = False) -> None:
        self._number = shards
        is_plain = shards == 1 and not tagged
        self.by_shard = [names] if is_plain else [ShardStreams(*_of_shard(names, shard)) for shard in range(shards)]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that workers read."""
        return tuple(stream for one in self.by_shard for stream in one.inputs)

    @property
    def created(self) -> tuple[str, ...]:
        """All that signals come in."""
        return tuple(one.signals_created for one in self.by_shard)

    @property
    def closed(self) -> tuple[str, ...]:
        """All that outcomes come in."""
        return tuple(one.trades_closed for one in self.by_shard)

    @property
    def scored(self) -> tuple[str, ...]:
        """All that scores are published to."""
        return tuple(one.signals_scored for one in self.by_shard)

    @property
    def kinds(self) -> dict[str, EventKind]:
        """Event type by input stream."""
        return {**dict.fromkeys(self.created, "signal.created"), **dict.fromkeys(self.closed, "trade.closed")}

    def of_signal(self, signal_id: str) -> ShardStreams:
        """Those of a signal and of its outcomes."""
        return self.by_shard[shard_of(signal_id, self._number)]

    def of_event(self, kind: EventKind, data: bytes) -> str:
        """Where an event belongs; one whose signal cannot be read belongs to the first shard."""
        created, closed, _ = self.by_shard[0] if self._number == 1 else self.of_signal(_signal_in(data))
        return closed if kind == "trade.closed" else created

    def of_again(self, stream: str, data: bytes) -> str:
        """Where an event of a stream belongs now; the same stream where it is none of ours."""
        name = plain_name(stream)
        known: dict[str, EventKind] = {plain_name(one): kind for one, kind in self.kinds.items()}
        return self.of_event(known[name], data) if name in known else stream


def _signal_in(data: bytes) -> str:
    """The id of the signal that an event is of; empty where none can be read, which is in the first shard."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ""
    signal_id = said.get("signal_id") if isinstance(said, dict) else None
    return signal_id if isinstance(signal_id, str) else ""


def _of_shard(names: ShardStreams, shard: int) -> Iterator[str]:
    return (stream_of_shard(name, shard) for name in names)
