"""A small installation to measure on: a server of its own, bars, models that serve, and streams of events."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from uuid import UUID

import numpy as np
import orjson
import redis

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.pipeline import FeatureRequest, SignalMetadata
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.typing import FloatArray
from worker.installation import feature_pipeline, open_store
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import Settings, load_settings

SYMBOLS = 16
DAYS = 1_500
#: Bars that an event of the second figure brings.
INLINE = 280
DAY_US = 86_400_000_000
_TRAINED_ON = 2_000


@dataclass(frozen=True)
class Environment:
    """Where a measurement runs: `url` is the server's, `market` the directory of bars."""

    url: str
    directory: Path
    market: Path
    #: Where the state directory of the store that is kept between runs is; None: nothing is kept.
    keep: Path | None = None
    #: Address of a PostgreSQL database; states whose name begins with `postgres` have their store there.
    database: str | None = None
    #: Of those stores.
    shards: int = 1

    def settings(self, state: str, *, archive: bool = False, bars: bool = True, slot: int = 0) -> Settings:
        """Settings with a state directory of that name; the defaults in everything that is not named here."""
        return load_settings(
            redis_url=self.url,
            state_dir=self.keep if self.keep is not None and state == "many" else self.directory / state,
            market_data_dir=self.market if bars else None,
            archive={"enabled": archive},
            streams={"signals_created": f"{state}.in", "trades_closed": f"{state}.out", "signals_scored": f"{state}.s"},
            consumer_slot=slot,
            metrics_port=0,
            console_port=0,
            log_level="ERROR",
            store_url=f"{self.database}&schema={state}" if self.database and state.startswith("postgres") else None,
            shards=self.shards,
        )


@contextmanager
def environment(*, fsync: str = "everysec") -> Iterator[Environment]:
    """A server with this fsync policy and a directory of bars, gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        market = directory / "market"
        market.mkdir()
        for number in range(SYMBOLS):
            _write(market / f"{symbol(number)}.csv", sample_bars(number, DAYS))
        with EmbeddedServer(directory / "valkey") as server:
            with redis.Redis.from_url(server.url) as client:
                client.config_set("appendfsync", fsync)
            yield Environment(server.url, directory, market)


def symbol(number: int) -> str:
    """Signals go round the symbols."""
    return f"SYM{number % SYMBOLS}"


Naming = Callable[[int], str]


def in_order(number: int) -> str:
    """Ids that grow, as a counter's do: an index of them grows at its end."""
    return f"sig-{number:08d}"


def scattered(number: int) -> str:
    """Ids without an order, as uuid4 makes them."""
    return str(UUID(bytes=blake2b(number.to_bytes(8), digest_size=16).digest(), version=4))


def small(number: int, naming: Naming = in_order) -> bytes:
    """A signal whose bars are looked up; sixteen of them share a day."""
    return orjson.dumps(_said(number, 400 + number // SYMBOLS % (DAYS - 400)) | {"signal_id": naming(number)})


def inline(number: int) -> bytes:
    """A signal with its bars; sixteen of them share their times."""
    bars = _history(number % SYMBOLS)
    first = number // SYMBOLS % (DAYS - INLINE)
    part = slice(first, first + INLINE)
    columns = {name: _cents(getattr(bars, name)[part]) for name in ("open", "high", "low", "close")}
    times = [f"{text_from_us(us)[:19]}Z" for us in bars.timestamp[part].tolist()]
    said = _said(number, first + INLINE - 1)
    volume = bars.volume[part].astype(int).tolist()
    return orjson.dumps({**said, "bars": {"timestamp": times, **columns, "volume": volume}})


def train(settings: Settings, *, rows: int = _TRAINED_ON) -> None:
    """Fit the default ensemble on the events' own features, and let it serve as a proven champion.

    A second one is entered beside it, as a challenger is.
    """
    pipeline = feature_pipeline(settings)
    requests = [_request(number) for number in range(rows)]
    X = pipeline.extract_batch(requests).values
    rng = np.random.default_rng(0)
    p = 1.0 / (1.0 + np.exp(-1.5 * (X[:, 0] - X[:, 0].mean()) / X[:, 0].std()))
    with open_store(settings) as store:
        registry = ModelRegistry(model_dir=str(settings.models_dir), db=store)
        for version in ("champion", "challenger"):
            r = np.where(rng.random(rows) < p, 1.4, -1.0)
            model = SignalQualityModel(version)
            model.fit(X, r, feature_names=pipeline.names)
            model.feature_version = pipeline.feature_version
            registry.register(model)
            if version == "champion":
                registry.promote(model.model_id, proven=True)


def publish(client: redis.Redis, stream: str, events: list[bytes], *, field: str = "data", chunk: int = 1_000) -> None:
    """Append events to a stream, quickly."""
    for start in range(0, len(events), chunk):
        with client.pipeline(transaction=False) as pipe:
            for data in events[start : start + chunk]:
                pipe.xadd(stream, {field: data})
            pipe.execute()


_HISTORIES: dict[int, Bars] = {}


def _history(number: int) -> Bars:
    if number not in _HISTORIES:
        _HISTORIES[number] = sample_bars(number, DAYS)
    return _HISTORIES[number]


def _cents(prices: FloatArray) -> list[float]:
    return [round(price, 2) for price in prices.tolist()]


def _said(number: int, day: int) -> dict[str, object]:
    bars = _history(number % SYMBOLS)
    price = float(bars.close[day])
    return {
        "signal_id": in_order(number),
        "timestamp": text_from_us(int(bars.timestamp[day]) + 3_600_000_000),
        "symbol": symbol(number),
        "asset_class": "equity",
        "signal_type": ("breakout", "momentum", "reversal")[number % 3],
        "direction": "long",
        "conviction": ("HIGH", "MEDIUM", "LOW")[number % 3],
        "technical_score": number % 101 / 10,
        "entry_price": round(price, 2),
        "target_price": round(price * 1.1, 2),
        "stop_price": round(price * 0.95, 2),
    }


def _request(number: int) -> FeatureRequest:
    day = 400 + number // SYMBOLS % (DAYS - 400)
    bars = _history(number % SYMBOLS)
    said = _said(number, day)
    metadata = SignalMetadata.from_mapping(said)
    return FeatureRequest(str(number), int(bars.timestamp[day]) + 3_600_000_000, metadata, replace(bars))


def _write(path: Path, bars: Bars) -> None:
    rows = ["timestamp,open,high,low,close,volume"]
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    values = zip(*(column.tolist() for column in columns), strict=True)
    rows += [
        ",".join([text_from_us(us), *map(repr, row)]) for us, row in zip(bars.timestamp.tolist(), values, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
