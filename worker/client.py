"""A producer's client: checks events before they are sent, sends them safely, and keeps an outbox if it is told to.

    from worker.client import RefineryClient

    with RefineryClient("redis://localhost:6379", outbox="outbox.db") as client:
        client.signal_created(signal_id="a-1", timestamp=now, symbol="X", asset_class="equity", signal_type="breakout")
        client.trade_closed(signal_id="a-1", closed_at=now, r_multiple=1.4)

Sending an event twice is harmless, since events have an identity: so a lost reply is answered by sending again. With
an outbox an event is on disk before `signal_created` returns, and is sent as soon as Redis is there, also after a
power cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from trading_system.ml_refinement.storage import Outbox
from worker.errors import DecodeError, Reason, TransientError
from worker.events.decoding import EventKind, Limits, decode
from worker.settings.schema import StreamSettings
from worker.streams.entries import SENT_AT_ONCE_BYTES, append, append_many

_BACKOFF = ExponentialBackoff(base=0.1, cap=2.0)
_AT_ONCE = 200


class RefineryClient:
    """Publishes events; a context manager.

    Args:
        url: address of Redis, as `redis://`, `rediss://` or `unix://`.
        streams: names of the streams.
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
        outbox: str | Path | None = None,
        patience_s: float = 10.0,
    ) -> None:
        names = streams or StreamSettings()
        self._streams: dict[EventKind, str] = {
            "signal.created": names.signals_created,
            "trade.closed": names.trades_closed,
        }
        self._give_up_after_s = patience_s
        self._client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5, protocol=2)
        self.trouble: str | None = None
        self._outbox = None if outbox is None else Outbox(Path(outbox))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def signal_created(self, *, features: Mapping[str, float] | None = None, **fields: Any) -> str | None:
        """Publish a signal. Its fields are those of the contract; times may be datetimes with an offset.

        `features` is what only the desk knows of it, numbers by name: leave out what is not known.

        Returns the entry's id, or None where the event went into the outbox and Redis does not have it yet.

        Raises:
            DecodeError: the worker would refuse it; `reason` and `detail` say why. Nothing was sent or kept.
            TransientError: Redis did not answer for `patience_s`, and there is no outbox.
        """
        if features is not None:
            fields["features"] = dict(features)
        return self._publish("signal.created", fields)

    def trade_closed(self, **fields: Any) -> str | None:
        """Publish an outcome; as `signal_created`."""
        return self._publish("trade.closed", fields)

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

    def _publish(self, kind: EventKind, fields: dict[str, Any]) -> str | None:
        _refuse_not_finite(fields)
        data = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
        decode(kind, data, now=datetime.now(UTC), limits=Limits())
        stream = self._streams[kind]
        if self._outbox is None:
            return self._patiently(stream, data)
        self._outbox.keep(stream, data)
        self.flush()
        return None

    def _patiently(self, stream: str, data: bytes) -> str:
        give_up_at = time.monotonic() + self._give_up_after_s
        failures = 0
        while True:
            pause_s = _BACKOFF.compute(failures)
            try:
                entry_id = append(self._client, stream, data)
            except TransientError as error:
                self._failed(error)
                if time.monotonic() + pause_s > give_up_at:
                    raise
            else:
                self.trouble = None
                return entry_id
            time.sleep(pause_s)
            failures += 1

    def _failed(self, error: TransientError) -> None:
        """Keep the cause, and connect anew next time: the connection may lead to a server that was demoted."""
        self.trouble = str(error)
        self._client.connection_pool.disconnect(inuse_connections=False)


def _refuse_not_finite(fields: Mapping[str, Any]) -> None:
    """JSON has no NaN: written as null it would say that a number is missing, where it went wrong."""
    provided = fields.get("features")
    named = {f"features.{name}": value for name, value in provided.items()} if isinstance(provided, Mapping) else {}
    for name, value in {**fields, **named}.items():
        if isinstance(value, Real) and not isinstance(value, Integral) and not math.isfinite(value):
            raise DecodeError(Reason.BAD_NUMBER, f"{name}: {value} is not a finite number")
