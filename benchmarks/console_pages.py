"""How long the console's pages take with 100,000 signals and 5,000 dead letters in the store.

    python -m benchmarks.console_pages [SIGNALS] [DEAD_LETTERS]

Prints the table of docs/console.md: the first request of a fresh process, and the median of the next seven.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support.console_installation import train
from tests.support.desk import settings_for
from trading_system.ml_refinement.features import FeaturePipeline
from trading_system.ml_refinement.storage import (
    FeatureDatabase,
    NewDeadLetter,
    OutcomeRow,
    PredictionRow,
    VectorRow,
)
from trading_system.ml_refinement.storage.times import text_from_us
from worker.console.application import create_app
from worker.console.diagrams import warm
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import Settings

MINUTE_US = 60_000_000
START_US = 1_700_000_000_000_000


def fill(settings: Settings, signals: int, letters: int) -> str:
    """A store of that size, with the predictions of one model; the id of a signal."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(3)
    with FeatureDatabase(settings.store_path) as store:
        model = None
        for start in range(0, signals, 1000):
            ids = [f"s-{number:06d}" for number in range(start, min(start + 1000, signals))]
            rows = [
                VectorRow(
                    name, text_from_us(START_US + (start + i) * MINUTE_US), f"SYM{i % 40}", "equity", "breakout",
                    "HIGH", pipeline.feature_version, True, b"0" * 16, f"{start + i}-0",
                )
                for i, name in enumerate(ids)
            ]  # fmt: skip
            with store.atomic():
                store.vectors.insert_new(rows, pipeline.names, rng.normal(size=(len(ids), len(pipeline.names))))
            if model is None:
                model = train(settings, store, 1)
            with store.atomic():
                when = text_from_us(START_US + start * MINUTE_US)
                store.scores.log_predictions(
                    [PredictionRow(name, model, when, float(rng.uniform(0.3, 0.7))) for name in ids]
                )
                store.outcomes.record(
                    [
                        OutcomeRow(name, 0, text_from_us(START_US + (start + i + 600) * MINUTE_US), float(rng.normal()))
                        for i, name in enumerate(ids)
                    ]
                )
        reasons = ("no_market_data", "lookahead", "schema", "handler_error")
        payload = b'{"signal_id": "x", "bars": [' + b"1," * 4000 + b"1]}"
        for start in range(0, letters, 500):
            store.dead_letters.add(
                [
                    NewDeadLetter(
                        "signals.created", f"{n}-0", reasons[n % 4], f"what was wrong with number {n}", payload, 1, "0",
                        f"print-{n % 25}", signal_id=f"d-{n}", symbol=f"SYM{n % 40}",
                    )
                    for n in range(start, min(start + 500, letters))
                ]
            )  # fmt: skip
    return f"s-{signals // 2:06d}"


def main(signals: int, letters: int) -> None:
    with tempfile.TemporaryDirectory() as place, EmbeddedServer(Path(place) / "valkey", join=False) as server:
        settings = settings_for(Path(place) / "var", server.url)
        signal = fill(settings, signals, letters)
        flask = create_app(settings, server.url)
        warm(flask.extensions["refinery"])  # as a running console does before it listens
        client = flask.test_client()
        with FeatureDatabase(settings.store_path) as store:
            model = store.models.active_id("signal_quality")
        pages = {
            "overview": "/",
            "dead letters": "/dead-letters",
            "dead letters, filtered": "/dead-letters?symbol=SYM7&reason=schema&status=any",
            "one dead letter": "/dead-letters/77",
            "models": "/models",
            "one model": f"/models/{model}",
            "signals": "/signals",
            "signals of a symbol": "/signals?symbol=SYM7",
            "signals by time": "/signals?since=2023-11-20&until=2023-11-21",
            "signals by id": "/signals?signal_id=s-05",
            "one signal": f"/signals/{signal}",
            "monitoring": "/monitoring",
            "jobs": "/jobs",
        }
        print(f"{signals:,} signals, {letters:,} dead letters\n\n| page | first, ms | then, ms |\n|---|---|---|")
        for name, path in pages.items():
            times = []
            for _ in range(8):
                started = time.perf_counter()
                answer = client.get(path)
                times.append(1000 * (time.perf_counter() - started))
                assert answer.status_code == 200, (path, answer.status_code)
            print(f"| {name} | {times[0]:.0f} | {sorted(times[1:])[3]:.0f} |")


if __name__ == "__main__":
    main(*(int(text) for text in (sys.argv[1:3] if len(sys.argv) > 2 else ("100000", "5000"))))
