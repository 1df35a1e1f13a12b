"""How fast stored vectors are rebuilt from archived events, and one at a time: `python -m benchmarks.rebuild`."""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features import FeaturePipeline
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.feature_store import Capture, FeatureStore
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, FeatureDatabase
from trading_system.ml_refinement.storage.times import text_from_us
from worker.events.decoding import decode_kept
from worker.maintenance.rebuild import Rebuild
from worker.market_data.directory import DirectorySource

STREAM, BARS = "signals.created", 280
OLD = FeatureConfig(feature_set=FeatureSet.EXTENDED)
NEW = FeatureConfig(feature_set=FeatureSet.EXTENDED, volatility_window=15)


def event(number: int) -> bytes:
    """A signal with 280 bars of its own."""
    bars = sample_bars(number % 50, BARS)
    shift = timedelta(minutes=number)
    columns = {name: getattr(bars, name).tolist() for name in ("open", "high", "low", "close", "volume")}
    times = [datetime.fromtimestamp(us / 1e6, UTC) + shift for us in bars.timestamp.tolist()]
    about = {"symbol": f"S{number % 50}", "asset_class": "equity", "signal_type": "breakout", "conviction": "HIGH"}
    said = {"signal_id": f"s-{number}", "timestamp": times[-1], "bars": {"timestamp": times, **columns}}
    return orjson.dumps({**said, **about, "technical_score": 7.5})


def fill(store: FeatureDatabase, archive: EventArchive, count: int) -> float:
    """Store signals as they come live; seconds, without the making of the events."""
    seconds = 0.0
    features = FeatureStore(store, FeaturePipeline(OLD))
    for start in range(0, count, 256):
        data = [event(number) for number in range(start, min(start + 256, count))]
        began = time.process_time()
        received = text_from_us(time.time_ns() // 1000)
        archive.append(
            [ArchivedEvent(STREAM, f"{start + n + 1}-0", received, payload) for n, payload in enumerate(data)]
        )
        signals = [decode_kept(payload) for payload in data]
        book = DirectorySource(None, benchmark_symbols={}).lookup(signals)
        features.capture(
            [Capture(book.request(s), s.symbol, s.digest, f"{start + n + 1}-0") for n, s in enumerate(signals)]
        )
        seconds += time.process_time() - began
    return seconds


def main(count: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        with FeatureDatabase(state / "features.db") as store, EventArchive(state / "events.db") as archive:
            rows = [("stored live, in batches of 256", count, fill(store, archive, count))]
            for config, size, name in ((NEW, 256, "rebuilt"), (OLD, 1, "rebuilt")):
                job = Rebuild(
                    store=store,
                    archive=archive,
                    pipeline=FeaturePipeline(config),
                    market_data=DirectorySource(None, benchmark_symbols={}),
                    stream=STREAM,
                    batch_size=size,
                )
                began = time.process_time()
                done = job.run()
                assert done.rebuilt == count, done
                rows.append((f"{name}, in batches of {size}", count, time.process_time() - began))
    print(f"| {count:,} signals with {BARS} bars, EXTENDED | rows a processor second | µs a row |\n|---|---|---|")
    for name, number, seconds in rows:
        print(f"| {name} | {number / seconds:,.0f} | {seconds / number * 1e6:,.0f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
