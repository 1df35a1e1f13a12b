"""Market data that cannot be read: the worker waits, charges no event, and sees the repair without a new start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, START, TRADES, bars, outcome, signal


def wanting(number: int) -> dict[str, Any]:
    """A signal that brings no bars."""
    return {name: value for name, value in signal(number).items() if name not in ("bars", "benchmark")}


def supply(directory: Path, symbol: str) -> None:
    columns = bars(end=START, seed=0)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (directory / ".new").write_text("\n".join(lines) + "\n")
    (directory / ".new").rename(directory / f"{symbol}.csv")


@pytest.mark.parametrize("broken", ["ACME", "SPX", "directory"])
def test_a_worker_waits_for_market_data_that_cannot_be_read(
    broken: str, tmp_path: Path, valkey_url: str, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    directory = tmp_path / "bars"
    directory.mkdir()
    for symbol in ("ACME", "SPX"):
        supply(directory, symbol)
    settings = settings_for(
        tmp_path / "var", valkey_url, market_data_dir=directory, benchmark_symbols={"equity": "SPX"}, max_deliveries=2
    )
    with desk(settings) as worker:
        if broken == "directory":
            directory.rename(tmp_path / "away")
        else:
            (directory / f"{broken}.csv").unlink()
            (directory / f"{broken}.csv").mkdir()
        for number in range(3):
            send(valkey, SIGNALS, wanting(number))
            send(valkey, TRADES, outcome(number))
        worker.drain(rounds=8)
        assert pending(valkey) == 6
        counts = worker.store.counts()
        assert (counts.signals, counts.dead_letters) == (0, 0)
        if broken == "directory":
            (tmp_path / "away").rename(directory)
        else:
            (directory / f"{broken}.csv").rmdir()
            supply(directory, broken)
        worker.drain()
        counts = worker.store.counts()
        assert (counts.signals, counts.labelled, counts.dead_letters) == (3, 3, 0)
        assert worker.store._connection.query("SELECT * FROM attempts") == []
    assert any("paused, nothing is lost: market data of" in line for line in errors_logged)
