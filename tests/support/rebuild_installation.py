"""Stores with archives, filled through the door and the feature store as the worker fills them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from tests.support.events import START, bars, signal
from tests.support.store_place import archive_place, store_place
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry
from trading_system.ml_refinement.features.feature_store import Capture, FeatureStore
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, FeatureDatabase
from trading_system.ml_refinement.storage.times import utc_text
from worker.events.decoding import Limits, SignalCreated, decode
from worker.maintenance.rebuild import Rebuild
from worker.market_data.directory import DirectorySource

STREAM = "signals.created"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
OLD = FeatureConfig(feature_set=FeatureSet.EXTENDED)
NEW = FeatureConfig(feature_set=FeatureSet.EXTENDED, volatility_window=15, market_regime_window=30)


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A signal with bars of a length of its own, news, and every other one a benchmark."""
    at = START + timedelta(hours=number)
    news = [
        {"published_at": (at - timedelta(hours=5 * age)).isoformat(), "sentiment": 0.3 - age / 10}
        for age in range(number % 4)
    ]
    own = {"bars": bars(20 + 37 * (number % 9), end=at, seed=number), "news": news}
    if number % 2:
        own["benchmark"] = bars(120, end=at - timedelta(hours=1), seed=500)
    return signal(number, **own | changes)


def csv_of(columns: Mapping[str, Sequence[Any]]) -> str:
    """Bars as a file of the market-data directory."""
    names = ("timestamp", "open", "high", "low", "close", "volume")
    rows = zip(*(columns[name] for name in names), strict=True)
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n"


@dataclass
class RebuildInstallation:
    """A store, its archive, and where bars come from."""

    store: FeatureDatabase
    archive: EventArchive
    market: DirectorySource
    directory: Path

    def receive(
        self, events: Sequence[dict[str, Any]], config: FeatureConfig = OLD, registry: FeatureRegistry | None = None
    ) -> None:
        """Archive and store them as signals that came from the stream."""
        limits = Limits()
        received = []
        for one in events:
            data = orjson.dumps(one)
            entry_id = f"{int(one['signal_id'].split('-')[1]) + 1}-0"
            self.archive.append([ArchivedEvent(STREAM, entry_id, utc_text(NOW), data)])
            decoded = decode("signal.created", data, now=NOW, limits=limits).event
            assert isinstance(decoded, SignalCreated)
            received.append((entry_id, decoded))
        book = self.market.lookup([one for _, one in received])
        captures = [Capture(book.request(one), one.symbol, one.digest, entry_id) for entry_id, one in received]
        FeatureStore(self.store, FeaturePipeline(config, registry)).capture(captures)

    def rebuild(
        self, config: FeatureConfig = NEW, registry: FeatureRegistry | None = None, batch_size: int = 16
    ) -> Rebuild:
        return Rebuild(
            store=self.store,
            archive=self.archive,
            pipeline=FeaturePipeline(config, registry),
            market_data=self.market,
            stream=STREAM,
            batch_size=batch_size,
        )


@contextmanager
def rebuild_installation(directory: Path) -> Iterator[RebuildInstallation]:
    market = directory / "market"
    market.mkdir(parents=True, exist_ok=True)
    source = DirectorySource(market, benchmark_symbols={"crypto": "BTC"}, max_bar_age_days=7)
    with (
        FeatureDatabase(store_place(directory)) as store,
        EventArchive(archive_place(directory)) as archive,
    ):
        yield RebuildInstallation(store, archive, source, directory)


def dump(store: FeatureDatabase, table: str) -> list[tuple[Any, ...]]:
    """Every row of a table, to the bit."""
    return store._connection.query(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608 - a test's own table names


def features(store: FeatureDatabase) -> dict[str, tuple[Any, ...]]:
    """Of every signal what a rebuild may change, but for the time of the change."""
    sql = "SELECT signal_id, features, packed, feature_version, complete FROM feature_vectors"
    return {row[0]: row[1:] for row in store._connection.query(sql)}
