"""Bars from a directory: one file per symbol, read when it changes, refused when it contradicts itself."""

from __future__ import annotations

import csv
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.valid_events import AT, bars, read_signal, signal
from trading_system.ml_refinement.bars import Bars
from worker.errors import Reason, TransientError
from worker.events.decoding import SignalCreated
from worker.market_data.directory import DirectorySource, NoMarketData
from worker.market_data.files import file_stem, read_bars

DAY_US = 86_400_000_000
AT_US = round(datetime.fromisoformat(AT).timestamp()) * 1_000_000


def put(path: Path, columns: dict[str, list[Any]], *, order: tuple[str, ...] | None = None) -> Path:
    """Write a CSV file of these columns."""
    names = order or tuple(columns)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(columns[name] for name in names), strict=True))
    return path


def source(directory: Path | None, **options: Any) -> DirectorySource:
    return DirectorySource(directory, **{"benchmark_symbols": {}, **options})


def wanting(symbol: str = "AAPL", us: int = AT_US, asset_class: str = "equity") -> SignalCreated:
    """A signal that brings neither bars nor a benchmark."""
    return read_signal(signal())._replace(symbol=symbol, timestamp_us=us, asset_class=asset_class)


def bars_of(given: DirectorySource, symbol: str = "AAPL", us: int = AT_US) -> Bars:
    """The bars that a signal's features are computed from."""
    one = wanting(symbol, us)
    return given.lookup([one]).request(one).bars


def refusal(directory: Path | None, symbol: str = "AAPL", us: int = AT_US, **options: Any) -> NoMarketData:
    with pytest.raises(NoMarketData) as refused:
        bars_of(source(directory, **options), symbol, us)
    assert symbol in refused.value.detail
    return refused.value


def test_a_file_is_read_to_the_same_numbers(tmp_path: Path) -> None:
    columns = bars(40)
    put(
        tmp_path / "AAPL.csv",
        {**columns, "adjusted": columns["close"]},
        order=("volume", "adjusted", *list(columns)[:-1]),
    )
    found = bars_of(source(tmp_path))
    for name in ("open", "high", "low", "close", "volume"):
        assert getattr(found, name).tolist() == columns[name]
    assert len(found) == 40
    assert found.timestamp[-1] == AT_US


def test_a_signal_has_bars_from_the_first_that_had_closed_on(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars(40))
    given = source(tmp_path)
    whole = bars_of(given)
    for row in range(40):
        for shift in (-1, 0, 1):
            us = int(whole.timestamp[row]) + shift
            expected = row + (shift >= 0)
            if expected:
                assert (bars_of(given, us=us).as_of(us).close == whole.close[:expected]).all()
            else:
                with pytest.raises(NoMarketData):
                    bars_of(given, us=us)


def test_a_batch_reads_each_symbol_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for symbol in ("AAPL", "MSFT", "SPX"):
        put(tmp_path / f"{symbol}.csv", bars())
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), real(self, *a, **k))[1])
    given = source(tmp_path, benchmark_symbols={"equity": "SPX"})
    for _ in range(3):
        book = given.lookup([wanting(symbol) for symbol in ("AAPL", "MSFT", "AAPL", "AAPL")])
        assert len(book.request(wanting("AAPL")).bars) == 5
    assert sorted(opened) == ["AAPL.csv", "MSFT.csv", "SPX.csv"]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = put(tmp_path / "AAPL.csv", bars(5))
    given = source(tmp_path)
    assert len(bars_of(given)) == 5
    put(path, bars(6))
    assert len(bars_of(given)) == 6
    stat = path.stat()
    put(tmp_path / "new", bars(6, seed=9))
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "new").replace(path)
    assert bars_of(given).close.tolist() == bars(6, seed=9)["close"]
    put(tmp_path / "MSFT.csv", bars(5))
    path.unlink()
    with pytest.raises(NoMarketData, match="no file"):
        bars_of(given)
    put(path, bars(7))
    assert len(bars_of(given)) == 7


def test_a_bad_file_is_used_as_soon_as_it_is_repaired(tmp_path: Path) -> None:
    path = put(tmp_path / "AAPL.csv", {**bars(5), "close": [1.0] * 5})
    given = source(tmp_path)
    for _ in range(2):
        with pytest.raises(NoMarketData) as refused:
            bars_of(given)
        assert refused.value.reason is Reason.BAD_MARKET_DATA
    put(path, bars(5))
    assert len(bars_of(given)) == 5


def test_a_symbol_without_a_file_is_named_with_the_time_wanted(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.reason is Reason.NO_MARKET_DATA
    assert "no file AAPL.csv or AAPL.parquet" in error.detail
    assert "2024-05-31T20:00:00" in error.detail


@pytest.mark.parametrize("name", ["AAPL.CSV", "AAPL.PARQUET"])
def test_a_file_whose_suffix_is_upper_case_is_named_as_not_read(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, bars(5))
    error = refusal(tmp_path)
    assert error.reason is Reason.NO_MARKET_DATA
    assert f"{name} is not read, suffixes are lower case" in error.detail


def test_no_directory_means_no_bars_and_a_lost_one_means_wait(tmp_path: Path) -> None:
    assert refusal(None).reason is Reason.NO_MARKET_DATA
    with pytest.raises(TransientError, match=r"unmounted: No such file"):
        source(tmp_path / "unmounted").lookup([wanting()])


def test_a_directory_that_has_lost_all_of_its_files_is_waited_for(tmp_path: Path) -> None:
    """As a mount point looks whose file system is gone."""
    path = put(tmp_path / "AAPL.csv", bars(5))
    given = source(tmp_path)
    assert len(bars_of(given)) == 5
    path.unlink()
    with pytest.raises(TransientError, match="is empty, and was not before"):
        bars_of(given)
    put(path, bars(6))
    assert len(bars_of(given)) == 6


@contextmanager
def _no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _no_rights(path: Path) -> Iterator[None]:
    mode, me = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if me == 0:
        os.seteuid(65534)  # root may read everything
    try:
        yield
    finally:
        os.seteuid(me)
        path.chmod(mode)


@contextmanager
def _something_else(path: Path, make: Callable[[Path], None]) -> Iterator[None]:
    path.rename(path.with_suffix(".kept"))
    make(path)
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        path.with_suffix(".kept").rename(path)


UNREADABLE: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "EACCES, the file": _no_rights,
    "EACCES, the directory": lambda path: _no_rights(path.parent),
    "EMFILE": lambda _: _no_descriptors(),
    "EIO": lambda path: _something_else(path, lambda place: place.symlink_to("/proc/self/mem")),
    "ELOOP": lambda path: _something_else(path, lambda place: place.symlink_to(place)),
    "EISDIR": lambda path: _something_else(path, Path.mkdir),
}


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("which", ["AAPL", "SPX"])
def test_what_cannot_be_read_now_is_waited_for_and_not_remembered(
    which: str, suffix: str, how: str, tmp_path: Path
) -> None:
    if how == "EIO" and not Path("/proc/self/mem").exists():
        pytest.skip("nothing here that cannot be read")
    directory = tmp_path / "bars"
    directory.mkdir()
    for symbol in ("AAPL", "SPX"):
        put(directory / f"{symbol}.csv", bars(5))
    path = directory / f"{which}.csv"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        columns = bars(5)
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").table(columns), path.with_suffix(suffix))
        path.unlink()
        path = path.with_suffix(suffix)
    given = source(directory, benchmark_symbols={"equity": "SPX"})
    for _ in range(2):
        with UNREADABLE[how](path), pytest.raises(TransientError) as waited:
            given.lookup([wanting()]).request(wanting())
        assert "cannot be read now: " in str(waited.value)
        assert str(path) in str(waited.value) or str(directory) in str(waited.value)
    found = given.lookup([wanting()]).request(wanting())
    assert (len(found.bars), len(found.benchmark or ())) == (5, 5)


def test_a_file_repaired_in_place_with_its_former_time_is_read_again(tmp_path: Path) -> None:
    path = put(tmp_path / "AAPL.csv", bars(5))
    whole, stat = path.read_bytes(), path.stat()
    path.write_bytes(whole.replace(b",", b";"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    given = source(tmp_path)
    with pytest.raises(NoMarketData):
        bars_of(given)
    path.write_bytes(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(bars_of(given)) == 5


def test_a_symbol_too_long_for_a_files_name_has_no_file(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars(5))
    with pytest.raises(NoMarketData) as refused:
        source(tmp_path).lookup([wanting("é" * 64)]).request(wanting("é" * 64))
    assert refused.value.reason is Reason.NO_MARKET_DATA
    assert "so long a name" in refused.value.detail
    assert len(refused.value.detail) < 300


def test_no_bar_before_the_signal_is_no_market_data_and_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars(3))
    error = refusal(tmp_path, us=AT_US - 3 * DAY_US)
    assert error.reason is Reason.NO_MARKET_DATA
    assert "from 2024-05-29T20:00:00.000000Z to 2024-05-31T20:00:00.000000Z" in error.detail
    assert "up to 2024-05-28T20:00:00" in error.detail


def test_a_stale_file_is_as_good_as_none(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars(3))
    assert len(bars_of(source(tmp_path), us=AT_US + 7 * DAY_US)) == 3
    assert "7 days" in refusal(tmp_path, us=AT_US + 7 * DAY_US + 1).detail
    assert len(bars_of(source(tmp_path, max_bar_age_days=30), us=AT_US + 30 * DAY_US)) == 3


def test_a_file_with_no_bars_has_none_for_the_signal(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars(0))
    assert "the file has no bars" in refusal(tmp_path).detail


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("BTC/USD", "BTC%2FUSD"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("..", ".."),
        ("^GSPC", "^GSPC"),
        ("EURUSD=X", "EURUSD=X"),
        ("BRK.B", "BRK.B"),
        ("BRK B", "BRK%20B"),
        ("BTC/USDT:USDT", "BTC%2FUSDT%3AUSDT"),
        ("M&M.NS", "M%26M.NS"),
        ("BINANCE:BTCUSDT.P", "BINANCE%3ABTCUSDT.P"),
        ("ES1!", "ES1%21"),
        ("$SPX", "%24SPX"),
        ("7203 トヨタ", "7203%20%E3%83%88%E3%83%A8%E3%82%BF"),
        ("a\\b:c*?", "a%5Cb%3Ac%2A%3F"),
        ("%2F", "%252F"),
        ("a\x00b", "a%00b"),
    ],
)
def test_a_symbol_is_one_file_name_inside_the_directory(tmp_path: Path, symbol: str, name: str) -> None:
    (tmp_path / "inside").mkdir()
    assert file_stem(symbol) == name
    path = put(tmp_path / "inside" / f"{name}.csv", bars())
    assert path.resolve().parent == (tmp_path / "inside").resolve()
    assert len(bars_of(source(tmp_path / "inside"), symbol)) == 5


def test_a_symbol_cannot_reach_a_file_outside(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    put(tmp_path / "secret.csv", bars())
    for symbol in ("../secret", "..//secret", "./../secret", str(tmp_path / "secret")):
        assert refusal(tmp_path / "inside", symbol).reason is Reason.NO_MARKET_DATA


GOOD = bars(4)
HEAD = "timestamp,open,high,low,close,volume\n"
ROW = "2024-05-31T20:00:00Z,10,11,9,10,100\n"
BAD_FILES = {
    "empty": ("", "without a header"),
    "no header": (ROW, "timestamp is missing"),
    "a column missing": (HEAD.replace(",volume", ""), "volume is missing"),
    "a column doubled": (HEAD.replace("volume", "close"), "close is doubled"),
    "a row too short": (HEAD + ROW + "2024-06-01T20:00:00Z,10,11\n", "line 3 has 3 fields"),
    "a row too long": (HEAD + ROW.replace("100", "100,5"), "line 2 has 7 fields"),
    "a blank line": (HEAD + ROW + "\n" + ROW, "line 3 has 0 fields"),
    "a number missing": (HEAD + ROW.replace("11", ""), "high in line 2"),
    "a word": (HEAD + ROW.replace("11", "n/a"), "high in line 2"),
    "an underscore": (HEAD + ROW.replace("100", "1_00"), "volume in line 2"),
    "other digits": (HEAD + ROW.replace("100", "١٢"), "volume in line 2"),
    "NaN": (HEAD + ROW.replace("11", "nan"), "high of bar 0"),
    "infinity": (HEAD + ROW.replace("11", "inf"), "high of bar 0"),
    "a price of 0": (HEAD + ROW.replace("9,", "0,"), "low of bar 0"),
    "a negative price": (HEAD + ROW.replace("9,", "-9,"), "low of bar 0"),
    "a negative volume": (HEAD + ROW.replace("100", "-100"), "volume of bar 0"),
    "high below low": (HEAD + ROW.replace("11", "8"), "high of bar 0"),
    "close above high": (HEAD + ROW.replace("10,100", "12,100"), "close is not between low and high, bar 0"),
    "an absurd price": (HEAD + ROW.replace("11", "1e300"), "high is absurd"),
    "a naive time": (HEAD + ROW.replace("Z", ""), "timestamp of bar 0"),
    "a date": (HEAD + ROW.replace("T20:00:00Z", ""), "timestamp of bar 0"),
    "unsorted": (HEAD + ROW + ROW.replace("-31", "-30"), "timestamp of bar 1"),
    "doubled": (HEAD + ROW + ROW, "timestamp of bar 1"),
    "no UTF-8": (HEAD + ROW.replace("11", "\xff"), "UTF-8"),
    "semicolons": ((HEAD + ROW).replace(",", ";"), "line 1 is separated by ';', and columns are by commas"),
    "tabs": ((HEAD + ROW).replace(",", "\t"), "line 1 is separated by '\\t'"),
    "an open quote": (HEAD + ROW.replace("11", '"11'), "no CSV file"),
}


@pytest.mark.parametrize(("content", "why"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_breaks_a_rule_is_refused_and_not_repaired(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "AAPL.csv").write_bytes(content.encode("latin-1" if "\xff" in content else "utf-8"))
    error = refusal(tmp_path)
    assert error.reason is Reason.BAD_MARKET_DATA
    assert "AAPL.csv" in error.detail
    assert why in error.detail


def test_one_bad_file_does_not_touch_other_symbols(tmp_path: Path) -> None:
    (tmp_path / "AAPL.csv").write_text("rubbish")
    put(tmp_path / "MSFT.csv", bars())
    book = source(tmp_path).lookup([wanting(symbol) for symbol in ("AAPL", "MSFT", "NONE")])
    assert len(book.request(wanting("MSFT")).bars) == 5
    for symbol in ("AAPL", "NONE"):
        with pytest.raises(NoMarketData):
            book.request(wanting(symbol))


def test_the_benchmark_goes_by_asset_class(tmp_path: Path) -> None:
    put(tmp_path / "AAPL.csv", bars())
    put(tmp_path / "SPX.csv", bars(9))
    put(tmp_path / "BTC.csv", bars(8))
    given = source(tmp_path, benchmark_symbols={"equity": "SPX", "crypto": "BTC"})
    book = given.lookup([wanting(asset_class=kind) for kind in ("equity", "crypto", "fx")])
    assert [book.benchmark(kind) and len(book.benchmark(kind) or ()) for kind in ("equity", "crypto", "fx")] == [
        9,
        8,
        None,
    ]


def test_a_missing_benchmark_is_none_and_said_once(tmp_path: Path, warnings_logged: list[str]) -> None:
    put(tmp_path / "AAPL.csv", bars())
    given = source(tmp_path, benchmark_symbols={"equity": "SPX"})
    for _ in range(3):
        assert given.lookup([wanting()]).benchmark("equity") is None
    assert len(warnings_logged) == 1
    assert "SPX" in warnings_logged[0]
    put(tmp_path / "SPX.csv", bars())
    assert given.lookup([wanting()]).benchmark("equity") is not None
    (tmp_path / "SPX.csv").unlink()
    assert given.lookup([wanting()]).benchmark("equity") is None
    assert len(warnings_logged) == 2


def test_a_bad_benchmark_is_neither_taken_for_a_missing_one_nor_charged_to_signals(tmp_path: Path) -> None:
    (tmp_path / "SPX.csv").write_text("rubbish")
    given = source(tmp_path, benchmark_symbols={"equity": "SPX"})
    with pytest.raises(TransientError, match=r"the benchmark SPX: SPX.csv: column timestamp is missing"):
        given.lookup([wanting()]).benchmark("equity")
    put(tmp_path / "SPX.csv", bars())
    assert given.lookup([wanting()]).benchmark("equity") is not None


class TestParquet:
    """The same bars from Parquet, where the extra is installed."""

    def put(self, path: Path, columns: dict[str, list[Any]], times: Any = None) -> Path:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = {**columns, "timestamp": columns["timestamp"] if times is None else times}
        parquet.write_table(arrow.table(table), path)
        return path

    def times(self, unit: str, zone: str | None) -> Any:
        arrow = pytest.importorskip("pyarrow")
        scale = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
        seconds = [round(datetime.fromisoformat(time).timestamp()) for time in GOOD["timestamp"]]
        return arrow.array([second * scale for second in seconds], arrow.timestamp(unit, zone))

    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    @pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
    def test_times_may_be_of_any_unit_and_zone(self, tmp_path: Path, unit: str, zone: str) -> None:
        self.put(tmp_path / "AAPL.parquet", GOOD, self.times(unit, zone))
        found = bars_of(source(tmp_path))
        expected = read_bars(put(tmp_path / "same.csv", GOOD)).bars
        for name in ("timestamp", "open", "high", "low", "close", "volume"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))

    def test_times_may_be_text(self, tmp_path: Path) -> None:
        self.put(tmp_path / "AAPL.parquet", GOOD)
        assert len(bars_of(source(tmp_path))) == 4

    def test_what_breaks_a_rule_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "AAPL.parquet"
        self.put(path, GOOD, self.times("us", None))
        assert "no time zone" in refusal(tmp_path).detail
        self.put(path, {**GOOD, "close": [str(price) for price in GOOD["close"]]})
        assert "not numbers" in refusal(tmp_path).detail
        self.put(path, {**GOOD, "close": [None, *GOOD["close"][1:]]})
        assert "close of bar 0 is missing" in refusal(tmp_path).detail
        self.put(path, {**GOOD, "volume": [*GOOD["volume"][:2], None, None]})
        assert "volume of bar 2 is missing (bars count from 0)" in refusal(tmp_path).detail
        arrow = pytest.importorskip("pyarrow")
        gap = arrow.array([0, None, 2, 3], arrow.timestamp("us", "UTC"))
        self.put(path, GOOD, gap)
        assert "timestamp of bar 1 is missing" in refusal(tmp_path).detail
        self.put(path, {**GOOD, "high": [1.0] * 4})
        assert "bar 0" in refusal(tmp_path).detail
        self.put(path, {"timestamp": GOOD["timestamp"]})
        assert "open is missing" in refusal(tmp_path).detail
        path.write_bytes(b"PAR1 rubbish")
        assert "no Parquet file" in refusal(tmp_path).detail

    def test_a_csv_beside_it_makes_it_unclear_which_one_counts(self, tmp_path: Path) -> None:
        self.put(tmp_path / "AAPL.parquet", GOOD)
        put(tmp_path / "AAPL.csv", GOOD)
        assert refusal(tmp_path).reason is Reason.BAD_MARKET_DATA

    def test_without_the_extra_the_error_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "AAPL.parquet").write_bytes(b"PAR1")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        error = refusal(tmp_path)
        assert error.reason is Reason.BAD_MARKET_DATA
        assert "signal-refinery[parquet]" in error.detail
