"""How long the console's pages take with 100,000 signals and 5,000 dead letters in the store.

    python -m benchmarks.console_pages [SIGNALS] [DEAD_LETTERS]

Prints the table of docs/console.md: the first request of a fresh process, and the median of the next seven.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

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
        add_letters(store, letters, b'{"signal_id": "x", "bars": [' + b"1," * 4000 + b"1]}")
    return f"s-{signals // 2:06d}"


def add_letters(store: FeatureDatabase, letters: int, payload: bytes) -> None:
    """Dead letters of four reasons, 25 causes and 40 symbols."""
    reasons = ("no_market_data", "lookahead", "schema", "handler_error")
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


def pages_of(model: str, signal: str, day: str) -> dict[str, str]:
    """Every page and every filter by what it is called, for a model, a signal and a day of the store."""
    begins = quote(signal[:-3])
    asked = {
        "of a symbol": "symbol=SYM7",
        "by time": f"since={day}&until={day}",
        "since a day": f"since={day}",
        "until a day": f"until={day}",
        "by time and symbol": f"since={day}&symbol=SYM7",
        "by id": f"signal_id={begins}",
        "by id and symbol": f"signal_id={begins}&symbol=SYM7",
        "of a kind": "kind=breakout",
        "of a kind that is none": "kind=nothing",
        "of a kind that is none, by time": f"kind=nothing&since={day}",
        "won": "outcome=won",
        "open": "outcome=open",
        "of a model": f"model_id={quote(model)}",
        "by score": "score_from=0.9",
        "by score, of a symbol": "score_from=0.9&symbol=SYM7",
        "of a symbol that is none": "symbol=NONE",
    }
    letters = {
        "filtered": "symbol=SYM7&reason=schema&status=any",
        "of all states": "status=any",
        "by cause": "fingerprint=print-3",
        "by text": "text=number+77",
        "by time": "since=2020-01-01",
        "of a signal": "signal_id=d-77",
        "ordered by signal": "order=signal_id",
        "ordered by last failure": "order=-last_seen",
    }
    return {
        "overview": "/",
        "dead letters": "/dead-letters",
        **{f"dead letters, {name}": f"/dead-letters?{query}" for name, query in letters.items()},
        "one dead letter": "/dead-letters/77",
        "models": "/models",
        "one model": f"/models/{model}",
        "signals": "/signals",
        **{f"signals {name}": f"/signals?{query}" for name, query in asked.items()},
        "one signal": f"/signals/{signal}",
        "monitoring": "/monitoring",
        "monitoring, a week": "/monitoring?days=7",
        "monitoring, the diagrams of a week's scores": "/monitoring?days=7&drawn=scores",
        "monitoring, the diagrams of a week over time": "/monitoring?days=7&drawn=time",
        "monitoring, of a symbol": "/monitoring?symbol=SYM7",
        "monitoring, the diagrams of a symbol's scores": "/monitoring?symbol=SYM7&drawn=scores",
        "monitoring, the diagrams of a symbol over time": "/monitoring?symbol=SYM7&drawn=time",
        "jobs": "/jobs",
    }


def page_times(settings: Settings, url: str, signal: str, *, rounds: int = 8) -> dict[str, list[float]]:
    """Milliseconds of each request for each page, the first of a fresh application first."""
    flask = create_app(settings, url)
    warm(flask.extensions["refinery"])  # as a running console does before it listens
    client = flask.test_client()
    with FeatureDatabase(settings.store_path, read_only=True) as store:
        model = store.models.active_id("signal_quality") or ""
        found = store.signals.get(signal)
    assert found is not None
    times: dict[str, list[float]] = {}
    for name, path in pages_of(model, signal, found.timestamp[:10]).items():
        for _ in range(rounds):
            started = time.perf_counter()
            answer = client.get(path, headers={"Accept-Encoding": "gzip"})
            times.setdefault(name, []).append(1000 * (time.perf_counter() - started))
            assert answer.status_code == 200, (path, answer.status_code)
    return times


def main(signals: int, letters: int) -> None:
    with tempfile.TemporaryDirectory() as place, EmbeddedServer(Path(place) / "valkey", join=False) as server:
        settings = settings_for(Path(place) / "var", server.url)
        times = page_times(settings, server.url, fill(settings, signals, letters))
        print(f"{signals:,} signals, {letters:,} dead letters\n\n| page | first, ms | then, ms |\n|---|---|---|")
        for name, taken in times.items():
            print(f"| {name} | {taken[0]:.0f} | {sorted(taken[1:])[3]:.0f} |")


if __name__ == "__main__":
    main(*(int(text) for text in (sys.argv[1:3] if len(sys.argv) > 2 else ("100000", "5000"))))
