"""A desk's past through real streams, a real worker and its store: applied once, and what is refused is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import desk, settings_for
from tests.support.events import SCORES, SIGNALS, TRADES, bars
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.errors import RefineryError
from worker.importing.columns import Layout
from worker.importing.result import ImportResult
from worker.importing.run import import_history, import_lock, read_files
from worker.importing.sending import MOST_WAITING, NothingHandled
from worker.redis_server.connection import connect
from worker.retraining.requests import enqueue_if_due
from worker.settings.schema import Settings

LAST = datetime(2019, 12, 31, 21, tzinfo=UTC)
LAYOUT = Layout(
    {"signal_id": "Trade", "timestamp": "Entry", "symbol": "Ticker", "closed_at": "Exit", "r_multiple": "R"},
    {"asset_class": "equity", "signal_type": "breakout"},
)


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Daily bars of ACME up to the end of 2019."""
    directory = tmp_path / "market"
    directory.mkdir()
    columns = bars(700, end=LAST)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (directory / "ACME.csv").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture
def settings(state_dir: Path, valkey_url: str, market: Path) -> Settings:
    return settings_for(state_dir, valkey_url, market_data_dir=market)


@pytest.fixture
def begin_worker(settings: Settings) -> Iterator[Callable[[], None]]:
    """Starts a worker, which handles events until the test ends."""
    stop, threads = threading.Event(), []

    def work() -> None:
        with desk(settings) as worker:
            worker.consumer.run(stop)

    def begin() -> None:
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield begin
    stop.set()
    for thread in threads:
        thread.join(HANGS_AFTER_S)


def past(path: Path, count: int, *, symbol: str = "ACME") -> Path:
    """A file of trades that were closed three days after their signal, the newest last."""
    lines = ["Trade,Entry,Ticker,Exit,R"]
    for number in range(count):
        at = LAST - timedelta(hours=2 * (count - number), days=10)
        closed = at + timedelta(days=3)
        lines.append(f"t-{number},{at:%Y-%m-%d %H:%M},{symbol},{closed:%Y-%m-%d %H:%M},{(number % 5) - 1.5}")
    path.write_text("\n".join(lines) + "\n")
    return path


def imported(settings: Settings, file: Path, *, patience_s: float = HANGS_AFTER_S) -> ImportResult:
    history, result = read_files(settings, [file], LAYOUT)
    with connect(settings.redis_url or "") as client:
        import_history(settings, client, history, result, patience_s=patience_s)
    return result


def test_a_past_is_applied_once_however_often_it_is_imported(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    file = past(tmp_path / "past.csv", 1200)
    begin_worker()
    first = imported(settings, file)
    for counts in (first.signals, first.trades):
        assert (counts.valid, counts.known, counts.sent, counts.applied) == (1200, 0, 1200, 1200)
    assert any("2,400 times have no offset, and are taken in UTC" in note for note in first.notes)
    again = imported(settings, file)
    assert (again.signals.known, again.signals.sent, again.trades.known, again.refused) == (1200, 0, 1200, [])
    with FeatureDatabase(settings.store_place, read_only=True) as store:
        counts = store.counts()
        assert (counts.signals, counts.labelled, counts.waiting_outcomes) == (1200, 1200, 0)
        assert store.outcomes.history("t-7")[0].closed_at.startswith("2019-")
    assert valkey.xlen(SIGNALS) == valkey.xlen(TRADES) == valkey.xlen(SCORES) == 1200


def test_signals_are_handled_before_trades_and_each_in_the_order_of_time(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    file = past(tmp_path / "past.csv", 30)
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(rows)]))
    begin_worker()
    imported(settings, file)
    sent: Any = [valkey.xrange(stream) for stream in (SIGNALS, TRADES)]
    ids = [[json.loads(fields[b"data"])["signal_id"] for _, fields in entries] for entries in sent]
    assert ids == [[f"t-{number}" for number in range(30)]] * 2
    assert sent[0][-1][0] <= sent[1][0][0]


def test_what_is_refused_is_told_with_reason_and_row_and_its_trade_is_not_sent(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    file = past(tmp_path / "past.csv", 5)
    head, *rows = file.read_text().splitlines()
    rows[1] = rows[1].replace("ACME", "NONE")
    rows[2] = rows[2].rsplit(",", 1)[0] + ",lots"
    file.write_text("\n".join([head, *rows]))
    begin_worker()
    result = imported(settings, file)
    told = {group.reason: group for group in result.groups()}
    assert {reason: group.places for reason, group in told.items()} == {
        "no_market_data": ("row 3",),
        "schema": ("row 4",),
        "signal_refused": ("row 3",),
    }
    assert "there is no file NONE.csv" in told["no_market_data"].example
    assert told["schema"].example == "r_multiple: 'lots' is no number"
    assert (valkey.xlen(SIGNALS), valkey.xlen(TRADES)) == (4, 3)
    with FeatureDatabase(settings.store_place, read_only=True) as store:
        assert store.counts().dead_letters_open == 0


def test_what_the_worker_refuses_is_told_with_its_row(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    """The market data went between the check and the worker's look."""
    file = past(tmp_path / "past.csv", 3)
    assert settings.market_data_dir is not None
    history, result = read_files(settings, [file], LAYOUT)
    (settings.market_data_dir / "ACME.csv").rename(settings.market_data_dir / "OTHER.csv")
    begin_worker()
    with connect(settings.redis_url or "") as client:
        import_history(settings, client, history, result, patience_s=HANGS_AFTER_S)
    assert (result.signals.sent, result.signals.applied, result.trades.sent) == (3, 0, 0)
    assert [(row.place, row.reason) for row in result.refused] == [
        *[(f"row {number}", "no_market_data") for number in (2, 3, 4)],
        *[(f"row {number}", "signal_refused") for number in (2, 3, 4)],
    ]


def test_what_the_store_has_with_other_content_is_refused_and_sent_no_more(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    file = past(tmp_path / "past.csv", 4)
    begin_worker()
    imported(settings, file)
    file.write_text(file.read_text().replace(",-1.5\n", ",-1.25\n"))
    assert [row.reason for row in imported(settings, file).refused] == ["outcome_conflict"]
    file.write_text(file.read_text().replace("ACME", "OTHER"))
    assert settings.market_data_dir is not None
    (settings.market_data_dir / "OTHER.csv").write_bytes((settings.market_data_dir / "ACME.csv").read_bytes())
    assert {group.reason: group.count for group in imported(settings, file).groups()} == {
        "identity_conflict": 4,
        "signal_refused": 4,
    }
    assert (valkey.xlen(SIGNALS), valkey.xlen(TRADES)) == (4, 4)


def test_no_more_waits_than_the_bound_and_an_import_that_was_interrupted_goes_on(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    file = past(tmp_path / "past.csv", MOST_WAITING + 200)
    with pytest.raises(NothingHandled, match=f"no worker handled anything .* {MOST_WAITING} events wait"):
        imported(settings, file, patience_s=0.2)
    assert valkey.xlen(SIGNALS) == MOST_WAITING
    begin_worker()
    assert imported(settings, file).trades.applied == MOST_WAITING + 200
    with FeatureDatabase(settings.store_place, read_only=True) as store:
        assert (store.counts().signals, store.counts().labelled) == (MOST_WAITING + 200, MOST_WAITING + 200)


def test_while_history_is_imported_no_training_is_asked_for_and_one_is_afterwards(
    settings: Settings, begin_worker: Callable[[], None], valkey: redis.Redis, tmp_path: Path
) -> None:
    begin_worker()
    imported(settings, past(tmp_path / "past.csv", 40))
    with FeatureDatabase(settings.store_place) as store:
        with import_lock(settings):
            assert enqueue_if_due(settings, store, valkey) is None
            with pytest.raises(RefineryError, match="is at work"), import_lock(settings):
                pass
        assert enqueue_if_due(settings, store, valkey) is not None
    assert not settings.import_lock_path.exists()


def test_the_command_checks_remembers_sends_and_reports(
    installation: Installation,
    settings: Settings,
    begin_worker: Callable[[], None],
    valkey: redis.Redis,
    tmp_path: Path,
) -> None:
    file = past(tmp_path / "past.csv", 5)
    file.write_text(file.read_text() + "t-9,never,ACME,,\n")
    installation.environment["REFINERY_MARKET_DATA_DIR"] = str(settings.market_data_dir)
    options = [f"--map={name}={column}" for name, column in LAYOUT.columns.items()]
    options += [f"--set={name}={value}" for name, value in LAYOUT.values.items()]
    checked = installation.run("import", str(file), *options, "--check")
    assert checked.returncode == 1
    assert b"row 7" in checked.stdout
    assert b"bad_time" in checked.stdout
    assert b"the columns are remembered in" in checked.stderr
    assert not valkey.exists(SIGNALS)
    assert not settings.store_path.exists()
    begin_worker()
    done = installation.run("import", str(file), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["signals"]["applied"], told["trades"]["applied"], told["refused"]) == (1, 5, 5, 1)
    assert told["reasons"][0]["reason"] == "bad_time"


def test_without_a_directory_of_bars_one_line_says_what_is_missing(settings: Settings, tmp_path: Path) -> None:
    file = past(tmp_path / "past.csv", 30)
    file.write_text(file.read_text() + "t-99,2019-05-05,OTHER,,\n")
    _, result = read_files(settings.model_copy(update={"market_data_dir": None}), [file], LAYOUT)
    missing, held_back = result.groups()
    assert (missing.reason, missing.count) == ("no_market_data", 31)
    assert missing.example == "REFINERY_MARKET_DATA_DIR: not set, and features need bars"
    assert (held_back.reason, held_back.count) == ("signal_refused", 30)


def test_what_cannot_be_imported_is_one_line_and_nothing_is_remembered(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past(tmp_path / "past.csv", 2)
    monkeypatch.chdir(tmp_path)
    done = installation.run("import", "past.csv", "--zone", "Asia/Tokyo")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("refinery: past.csv: signals lack timestamp")
    assert len(done.stderr.decode().splitlines()) == 1
    assert not (tmp_path / "refinery-import.toml").exists()
