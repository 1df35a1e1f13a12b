"""A producer's client: checks events before they are sent, sends them safely, and keeps an outbox if it is told to.

    from worker.client import RefineryClient

    with RefineryClient("redis://localhost:6379", outbox="outbox.db") as client:
        client.signal_created(signal_id="a-1", timestamp=now, symbol="X", asset_class="equity", signal_type="breakout")
        client.trade_closed(signal_id="a-1", closed_at=now, r_multiple=1.4)
        for entry_id, score in client.scores(wait_s=10):
            print(score.signal_id, score.quality_score)

Times may be datetimes or Timestamps, numbers Decimals or numpy's, bars a DataFrame.

Sending an event twice is harmless, since events have an identity: so a lost reply is answered by sending again. With
an outbox an event is on disk before `signal_created` returns, and is sent as soon as Redis is there, also after a
power cut.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import orjson
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from worker.errors import DecodeError, Reason, RefineryError, TransientError
from worker.events.decoding import EventKind, Limits, SignalCreated, decode
from worker.events.models import SignalScored
from worker.events.plain_bars import refuse_bad_bars
from worker.events.strict_json import parse_object
from worker.redis_client import client_at
from worker.settings.redis_url import cluster_address
from worker.streams.entries import SENT_AT_ONCE_BYTES, append, append_many
from worker.streams.errors import translated
from worker.streams.shards import ShardStreams, Streams

if TYPE_CHECKING:
    from trading_system.ml_refinement.storage import Outbox
    from worker.settings.schema import StreamSettings

#: The streams' usual names: created, closed, scored.
USUAL_STREAMS = ("signals.created", "trades.closed", "signals.scored")

#: A time with an offset: RFC 3339, a datetime, or whatever is one, as a Timestamp of pandas.
Moment = str | datetime
#: A number: of Python, of numpy (its scalars answer to float), or a Decimal.
Number = float | Decimal
#: Columns of bars by name, or a DataFrame of them with the close times as its index or its column `timestamp`.
BarData = Mapping[str, Sequence[Any]] | Any

_BACKOFF = ExponentialBackoff(base=0.1, cap=2.0)
_AT_ONCE = 200
#: Below the socket's timeout.
_BLOCK_S = 2.0
#: How often scores of several servers are looked for.
_LOOK_EVERY_S = 0.1


class ScoreEntry(NamedTuple):
    """A score and its entry id, from which reading goes on: with shards the last one of each, with commas between."""

    entry_id: str
    score: SignalScored


class RefineryClient:
    """Publishes events; a context manager.

    Args:
        url: address of Redis, as `redis://`, `rediss://` or `unix://`; of its sentinels, as
            `redis+sentinel://host,host/name`; or of a cluster, as `redis+cluster://host,host`. With TLS these begin
            with `rediss+`.
        streams: names of the streams.
        shards: how many the installation has (`REFINERY_SHARDS`).
        outbox: file that keeps events until Redis has them; None sends at once or raises.
        patience_s: how long a call without an outbox tries again.

    Attributes:
        trouble: why Redis did not take what was sent last, in a line; None while it does.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: StreamSettings | None = None,
        shards: int = 1,
        outbox: str | Path | None = None,
        patience_s: float = 10.0,
    ) -> None:
        names = ShardStreams(*USUAL_STREAMS)
        if streams is not None:
            names = ShardStreams(streams.signals_created, streams.trades_closed, streams.signals_scored)
        self._on_cluster = cluster_address(url) is not None
        self._streams = Streams(names, shards, tagged=self._on_cluster)
        self._give_up_after_s = patience_s
        self._client = client_at(url, retry=Retry(NoBackoff(), 0), socket_timeout=5, protocol=2)
        self.trouble: str | None = None
        self._outbox = None if outbox is None else _open_outbox(Path(outbox))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def signal_created(
        self,
        *,
        signal_id: str,
        timestamp: Moment,
        symbol: str,
        asset_class: str,
        signal_type: str,
        direction: Literal["long", "short"] = "long",
        conviction: str | None = None,
        technical_score: Number | None = None,
        news_score: Number | None = None,
        combined_score: Number | None = None,
        entry_price: Number | None = None,
        target_price: Number | None = None,
        stop_price: Number | None = None,
        position_size_pct: Number | None = None,
        bars: BarData | None = None,
        benchmark: BarData | None = None,
        news: Sequence[Mapping[str, Any]] | None = None,
        features: Mapping[str, Number] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Publish a signal. Its fields are those of the contract; what is None is left out.

        `features` is what only the desk knows of it, numbers by name: leave out what is not known. `extra` has fields
        that are none of the contract's; the worker counts them and passes them over.

        Returns the entry's id, or None where the event went into the outbox and Redis does not have it yet.

        Raises:
            DecodeError: the worker would refuse it; `reason` and `detail` say why. Nothing was sent or kept.
            TransientError: Redis did not answer for `patience_s`, and there is no outbox.
        """
        fields = {name: value for name, value in locals().items() if name not in ("self", "extra")}
        return self._publish("signal.created", fields, extra)

    def trade_closed(
        self,
        *,
        signal_id: str,
        closed_at: Moment,
        r_multiple: Number,
        return_pct: Number | None = None,
        exit_reason: str | None = None,
        revision: int = 0,
        extra: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Publish an outcome; as `signal_created`."""
        fields = {name: value for name, value in locals().items() if name not in ("self", "extra")}
        return self._publish("trade.closed", fields, extra)

    def scores(self, *, after: str = "now", wait_s: float | None = None) -> Iterator[ScoreEntry]:
        """The scores that the worker publishes, in order; those of different shards in that of their ids.

            for entry_id, score in client.scores(after=last_seen): ...

        Args:
            after: `now`, which is when this is called, for those that come; the entry id of the last one that was seen;
                or `0` for all that the stream holds.
            wait_s: ends when none came for so long; 0 gives what is there and waits for nothing; None never ends.

        Raises:
            TransientError: Redis did not answer for `patience_s`.
            ValueError: `after` is no entry id.
        """
        if after != "now" and not all(re.fullmatch(r"[0-9]+(-[0-9]+)?", one) for one in after.split(",")):
            raise ValueError(f"after has to be 'now', '0' or an entry id such as 1717185600000-0, and is {after!r}")
        streams, given = self._streams.scored, after.split(",")
        if len(given) not in (1, len(streams)):
            raise ValueError(f"after has to be 'now', '0' or the last entry id of each of {len(streams)} shards")
        if after == "now":
            return self._scores_after({stream: self._newest_score(stream) for stream in streams}, wait_s)
        return self._scores_after(dict(zip(streams, given * (len(streams) // len(given)), strict=True)), wait_s)

    def flush(self) -> int:
        """Send what the outbox holds, in order; how many events are left in it."""
        if self._outbox is None:
            return 0
        while batch := self._outbox.oldest(_AT_ONCE, most_bytes=SENT_AT_ONCE_BYTES):
            try:
                append_many(self._client, [(event.stream, event.data) for event in batch])
            except TransientError as error:
                self._failed(error)
                break
            self.trouble = None
            self._outbox.drop_until(batch[-1].number)
        return self._outbox.count()

    def close(self) -> None:
        """Send what can be sent now, and close."""
        self.flush()
        if self._outbox is not None:
            self._outbox.close()
        self._client.close()

    def _publish(self, kind: EventKind, fields: dict[str, Any], extra: Mapping[str, Any] | None) -> str | None:
        if extra and (ours := extra.keys() & fields.keys()):
            raise TypeError(f"{min(ours)} is a field of {kind}, and belongs beside `extra`")
        data = orjson.dumps(_plain(fields | dict(extra or {})), default=_as_json, option=orjson.OPT_SERIALIZE_NUMPY)
        _check(kind, data)
        stream = self._streams.of_event(kind, data)
        if self._outbox is None:
            return self._patiently(stream, data)
        self._outbox.keep(stream, data)
        self.flush()
        return None

    def _newest_score(self, stream: str) -> str:
        entries = self._asked(lambda: self._client.xrevrange(stream, count=1))
        return entries[0][0].decode() if entries else "0"

    def _scores_after(self, last: dict[str, str], wait_s: float | None) -> Iterator[ScoreEntry]:
        came_at = time.monotonic()
        while True:
            left_s = _BLOCK_S if wait_s is None else min(_BLOCK_S, came_at + wait_s - time.monotonic())
            block_ms = max(1, int(left_s * 1000)) if left_s > 0 else None
            answer = self._asked(lambda: self._next_scores(last, block_ms))  # noqa: B023 - asked at once
            for stream, entry_id, entry in _in_order(answer or ()):
                last[stream] = entry_id
                score = SignalScored.model_validate(orjson.loads(entry[b"data"]))
                yield ScoreEntry(",".join(last.values()), score)
                came_at = time.monotonic()
            if not answer and block_ms is None:
                return

    def _next_scores(self, last: dict[str, str], block_ms: int | None) -> list[Any]:
        if len(last) == 1 or not self._on_cluster:
            return list(self._client.xread(dict(last), count=_AT_ONCE, block=block_ms) or ())  # type: ignore[arg-type]
        # Servers of a cluster are asked one by one, and none of them is waited for.
        found = [part for place in last.items() for part in self._client.xread(dict([place]), count=_AT_ONCE) or ()]
        if not found and block_ms is not None:
            time.sleep(min(block_ms / 1000, _LOOK_EVERY_S))
        return found

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """What the server answers, asked again while it is away."""
        give_up_at = time.monotonic() + self._give_up_after_s
        failures = 0
        while True:
            pause_s = _BACKOFF.compute(failures)
            try:
                with translated():
                    answer = ask()
            except TransientError as error:
                self._failed(error)
                if time.monotonic() + pause_s > give_up_at:
                    raise
            else:
                self.trouble = None
                return answer
            time.sleep(pause_s)
            failures += 1

    def _patiently(self, stream: str, data: bytes) -> str:
        entry_id: str = self._asked(lambda: append(self._client, stream, data))
        return entry_id

    def _failed(self, error: TransientError) -> None:
        """Keep the cause, and connect anew next time: the connection may lead to a server that was demoted."""
        self.trouble = str(error)
        self._client.connection_pool.disconnect(inuse_connections=False)


def _in_order(answer: Iterable[tuple[bytes, Any]]) -> list[tuple[str, str, Any]]:
    """Stream, id and fields of each entry, by their ids."""
    rows = [(stream.decode(), entry_id.decode(), fields) for stream, part in answer for entry_id, fields in part]
    return sorted(rows, key=lambda row: tuple(map(int, row[1].split("-"))))


def _open_outbox(path: Path) -> Outbox:
    try:
        from trading_system.ml_refinement.storage import Outbox  # its driver of SQLite is the client's only extra
    except ModuleNotFoundError as error:
        raise RefineryError(f"an outbox needs {error.name}: pip install 'signal-refinery-client[outbox]'") from None
    return Outbox(path)


def _check(kind: EventKind, data: bytes) -> None:
    """Refuse what the worker would refuse."""
    now, limits = datetime.now(UTC), Limits()
    if find_spec("numpy") is not None:
        decode(kind, data, now=now, limits=limits)
        return
    said = parse_object(data, max_bytes=limits.max_bytes)
    bars, benchmark = said.pop("bars", None), said.pop("benchmark", None)
    event = decode(kind, orjson.dumps(said), now=now, limits=limits).event
    if isinstance(event, SignalCreated):
        for name, columns in (("bars", bars), ("benchmark", benchmark)):
            if columns is not None:
                refuse_bad_bars(columns, field=name, not_after_us=event.timestamp_us, max_bars=limits.max_bars)  # type: ignore[arg-type]


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields as JSON can say them, those that are None left out."""
    said: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name == "features" and hasattr(value, "items"):
            said[name] = {str(one): _one(f"features.{one}", number) for one, number in value.items()}
        elif name in ("bars", "benchmark"):
            said[name] = _bar_columns(value)
        else:
            said[name] = _one(name, value)
    return said


def _one(name: str, value: Any) -> Any:
    """A single value. JSON has no NaN: written as null it would say that a number is missing, where it went wrong."""
    if type(value).__name__ in ("NaTType", "NAType"):  # of pandas, which need not be there
        raise DecodeError(Reason.BAD_NUMBER, f"{name}: {value} is no value; leave it out where it is not known")
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, Real) and not isinstance(value, Integral) and not math.isfinite(value):
        raise DecodeError(Reason.BAD_NUMBER, f"{name}: {value} is not a finite number")
    return value


def _bar_columns(value: Any) -> Any:
    """Columns of bars as lists; those of a DataFrame by their names in any case, its index where it has no times."""
    if isinstance(value, Mapping):
        return {name: _listed(column) for name, column in value.items()}
    if not hasattr(value, "columns"):
        return value
    columns = {str(name).lower(): _listed(value[name]) for name in value.columns}
    return {"timestamp": _listed(value.index), **columns}


def _listed(column: Any) -> Any:
    return column.tolist() if hasattr(column, "tolist") else column


def _as_json(value: Any) -> Any:
    """What orjson does not know: subclasses of datetime, decimals, and what else can say itself as a list."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")
