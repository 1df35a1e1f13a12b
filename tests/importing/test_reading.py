"""Files of a desk to events: columns, times, numbers, what is refused and what is said of it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from worker.errors import DecodeError
from worker.events.decoding import Limits
from worker.importing.cells import Cells
from worker.importing.columns import Layout, WrongColumns, read_layout
from worker.importing.history import History, read_history
from worker.importing.result import grouped
from worker.importing.tables import WrongFile, read_table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = "signal_id,timestamp,symbol,asset_class,signal_type,closed_at,r_multiple"
ROW = "a-1,2024-05-31T20:00:00Z,ACME,equity,breakout,2024-06-03T20:00:00Z,1.5"


def history_of(path: Path, text: str | bytes, layout: Layout | None = None) -> History:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    layout = layout or Layout()
    return read_history([read_table(path, delimiter=layout.delimiter)], layout, now=NOW, limits=Limits())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "past.csv"


def test_a_row_is_a_signal_and_its_trade(file: Path) -> None:
    history = history_of(file, f"{HEAD}\n{ROW}\n")
    assert [one.data for one in history.signals] == [
        b'{"signal_id":"a-1","timestamp":"2024-05-31T20:00:00+00:00","symbol":"ACME","asset_class":"equity",'
        b'"signal_type":"breakout"}'
    ]
    assert [one.data for one in history.trades] == [
        b'{"signal_id":"a-1","closed_at":"2024-06-03T20:00:00+00:00","r_multiple":1.5}'
    ]
    assert (history.rows, history.refused, history.passed_over) == (1, [], {})


def test_a_trade_that_is_open_is_a_signal_only_and_half_a_trade_is_refused(file: Path) -> None:
    open_trade = ROW.replace("a-1", "a-2").replace("2024-06-03T20:00:00Z,1.5", ",")
    half = ROW.replace("a-1", "a-3").replace(",1.5", ",")
    history = history_of(file, f"{HEAD}\n{ROW}\n{open_trade}\n{half}\n")
    assert [one.event.signal_id for one in history.signals] == ["a-1", "a-2", "a-3"]
    assert [one.event.signal_id for one in history.trades] == ["a-1"]
    assert [(row.place, row.reason) for row in history.refused] == [("row 4", "schema")]
    assert "r_multiple" in history.refused[0].detail


def test_events_are_in_the_order_of_time(file: Path) -> None:
    rows = [ROW.replace("a-1", f"a-{day}").replace("05-31", f"05-{day}") for day in (17, 11, 14)]
    history = history_of(file, "\n".join([HEAD, *rows]))
    assert [one.event.signal_id for one in history.signals] == ["a-11", "a-14", "a-17"]


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        (f"\ufeff{HEAD}\n{ROW}\n", Layout()),
        (f"{HEAD}\r\n{ROW}\r\n\r\n", Layout()),
        (f"{HEAD}\n{ROW}\n".replace(",", "\t"), Layout()),
        (f"{HEAD}\n{ROW}\n".replace(",", ";").replace("1.5", "1,5"), Layout(decimal=",")),
        (f"{HEAD}\n{ROW}\n".replace(",", "^"), Layout(delimiter="^")),
        (f"{HEAD.replace('signal_id', 'Signal ID').replace('symbol', ' SYMBOL')}\n{ROW}\n", Layout()),
        (f"{HEAD.replace('timestamp', 'When?')}\n{ROW}\n", Layout({"timestamp": "When?"})),
        (f"{HEAD}\n{ROW.replace('breakout', 'Breakout ').replace('equity', 'EQUITY')}\n", Layout()),
        (
            f"{HEAD.replace('asset_class,', '')}\n{ROW.replace('equity,', '')}\n",
            Layout(values={"asset_class": "Equity"}),
        ),
    ],
)
def test_files_are_read_as_desks_write_them(file: Path, text: str, layout: Layout) -> None:
    plain = history_of(file, f"{HEAD}\n{ROW}\n")
    found = history_of(file, text, layout)
    assert [one.event for one in found.signals] == [one.event for one in plain.signals]
    assert [one.event for one in found.trades] == [one.event for one in plain.trades]


def test_a_parquet_file_says_the_same_as_a_csv(tmp_path: Path, file: Path) -> None:
    head = f"{HEAD},revision,features.depth,direction,entry_price"
    plain = history_of(file, f"{head}\n{ROW},2,0.25,SELL,128.5\n{ROW.replace('a-1', '7')},,,buy,\n")
    at, closed = datetime(2024, 5, 31, 20, tzinfo=UTC), datetime(2024, 6, 3, 20, tzinfo=UTC)
    table = pyarrow.table(
        {
            "signal_id": ["a-1", "7"],
            "timestamp": pyarrow.array([at] * 2, pyarrow.timestamp("ns", "UTC")),
            "symbol": ["ACME"] * 2,
            "asset_class": ["equity"] * 2,
            "signal_type": pyarrow.array(["breakout"] * 2).dictionary_encode(),
            "closed_at": pyarrow.array([closed.replace(tzinfo=None)] * 2, pyarrow.timestamp("ms")),
            "r_multiple": [1.5] * 2,
            "revision": [2.0, float("nan")],
            "features.depth": [0.25, None],
            "direction": ["SELL", "buy"],
            "entry_price": [Decimal("128.5"), None],
        }
    )
    path = tmp_path / "past.parquet"
    parquet.write_table(table, path)
    history = read_history([read_table(path)], Layout(), now=NOW, limits=Limits())
    assert [one.event for one in history.trades] == [one.event for one in plain.trades]
    assert [one.event for one in history.signals] == [one.event for one in plain.signals]
    assert (history.naive, plain.naive, history.refused) == (2, 0, [])


@pytest.mark.parametrize(
    ("said", "zone", "utc"),
    [
        ("2024-05-31T16:00:00-04:00", "Asia/Tokyo", "2024-05-31T20:00:00+00:00"),
        ("2024-05-31 16:00", "America/New_York", "2024-05-31T20:00:00+00:00"),
        ("2024-01-31 16:00", "America/New_York", "2024-01-31T21:00:00+00:00"),
        ("2024-05-31", "UTC", "2024-05-31T00:00:00+00:00"),
        ("1717185600", "America/New_York", "2024-05-31T20:00:00+00:00"),
        ("1717185600000", "UTC", "2024-05-31T20:00:00+00:00"),
        (1717185600, "UTC", "2024-05-31T20:00:00+00:00"),
        (date(2024, 5, 31), "UTC", "2024-05-31T00:00:00+00:00"),
    ],
)
def test_a_time_is_its_own_or_of_the_zone_that_is_said(said: Any, zone: str, utc: str) -> None:
    cells = Cells(Layout(zone=zone))
    found = cells.moment("timestamp", said)
    assert found is not None
    assert found.astimezone(UTC).isoformat() == utc
    assert cells.naive == (not str(said).startswith("17") and "-04:00" not in str(said))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("2024-03-10 02:30", "is no time in America/New_York"),
        ("2024-11-03 01:30", "is two times in America/New_York"),
        ("31/05/2024", "is no time as 2024-05-31 16:00"),
        ("yesterday", "--time-format"),
    ],
)
def test_a_time_that_is_none_or_two_is_refused(said: str, why: str) -> None:
    with pytest.raises(DecodeError, match=f"^bad_time: closed_at: .*{why}"):
        Cells(Layout(zone="America/New_York")).moment("closed_at", said)


def test_times_of_another_form_are_read_as_it_says() -> None:
    found = Cells(Layout(time_format="%d/%m/%Y %I:%M %p")).moment("timestamp", "31/05/2024 4:00 PM")
    assert found == datetime(2024, 5, 31, 16, tzinfo=UTC)


@pytest.mark.parametrize("said", ["", " ", "NaN", "NULL", "n/a", None, float("nan")])
def test_a_number_that_is_missing_is_none(said: Any) -> None:
    assert Cells(Layout()).number("entry_price", said) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("1,5", "--decimal ,"),
        ("3.4%", "is no number"),
        ("1e999", "beyond every number"),
        (float("inf"), "not a finite number"),
        (True, "is no number"),
        ("\u0661", "is no number"),
    ],
)
def test_a_number_that_is_none_is_refused(said: Any, why: str) -> None:
    with pytest.raises(DecodeError, match=f"entry_price: .*{why}"):
        Cells(Layout()).number("entry_price", said)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\n", "the file is empty"),
        (HEAD.encode(), "no row below its columns"),
        (f"{HEAD}\n{ROW}\n".encode("utf-16"), "not UTF-8 at byte 0"),
        (f"{HEAD}\n{ROW},1\n".encode(), "line 2 has 8 columns, and the first has 7"),
        (f'{HEAD}\n"{ROW}\n'.encode(), "line 2: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(file: Path, content: bytes, why: str) -> None:
    with pytest.raises(WrongFile) as caught:
        history_of(file, content)
    assert str(caught.value) == f"{file}: {why}" or why in str(caught.value)


def test_a_file_that_is_not_there_or_no_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongFile, match=r"gone\.csv: No such file"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "odd.parquet").write_bytes(b"no such thing")
    with pytest.raises(WrongFile, match=r"odd\.parquet: no Parquet file"):
        read_table(tmp_path / "odd.parquet")
    with pytest.raises(WrongFile, match="Is a directory"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("a,b", "signals lack timestamp, symbol, asset_class, signal_type, and trades lack closed_at, r_multiple"),
        ("closed_at,r_multiple", "trades lack signal_id"),
        ("signal_id,timestamp,symbol", "signals lack asset_class, signal_type"),
        ("Signal ID,signal_id,timestamp,symbol,asset_class,signal_type", "could both be signal_id"),
    ],
)
def test_columns_that_do_not_fit_are_told_with_those_that_there_are(file: Path, head: str, why: str) -> None:
    with pytest.raises(WrongColumns, match=why) as caught:
        history_of(file, f"{head}\n{',' * head.count(',')}x\n")
    assert "both" in why or "--map FIELD=COLUMN" in str(caught.value)


def test_rows_are_refused_as_the_worker_would_with_reason_and_place(file: Path) -> None:
    rows = [
        ROW,
        ROW.replace("a-1", "a 2"),
        ROW.replace("a-1", "a-3").replace(",1.5", ",many"),
        ROW.replace("a-1", "a-4").replace("2024-05-31T20", "1970-01-01T00"),
        ROW.replace("a-1", "a-5").replace("2024-06-03", "2024-05-03"),
        ROW.replace("a-1", "a-6").replace("1.5", "5000"),
        ROW.replace("a-1", "a-7").replace("2024-06-03", "2027-06-03"),
    ]
    history = history_of(file, "\n".join([HEAD, *rows]))
    assert {row.place: row.reason for row in history.refused} == {
        "row 3": "schema",
        "row 4": "schema",
        "row 5": "bad_time",
        "row 6": "closed_before_signal",
        "row 7": "bad_number",
        "row 8": "future_timestamp",
    }
    assert [one.event.signal_id for one in history.trades] == ["a-1"]
    about = {(group.reason, group.about): group.count for group in grouped(history.refused)}
    assert about[("schema", "r_multiple")] == 1


def test_the_same_row_twice_is_one_event_and_another_under_its_id_is_refused(file: Path) -> None:
    other = ROW.replace("ACME", "OTHER")
    again = ROW.replace(",1.5", ",1.6")
    history = history_of(file, "\n".join([HEAD, ROW, ROW, other, again]))
    assert (len(history.signals), len(history.trades), history.repeated) == (1, 1, 3)
    assert [(row.place, row.reason) for row in history.refused] == [
        ("row 4", "identity_conflict"),
        ("row 5", "outcome_conflict"),
    ]
    assert "row 2 is a-1" in history.refused[0].detail


def test_an_id_made_from_a_row_is_the_same_at_every_import_and_however_its_time_is_written(file: Path) -> None:
    head, row = HEAD.removeprefix("signal_id,"), ROW.removeprefix("a-1,")
    first = history_of(file, f"{head}\n{row}\n").signals[0].event.signal_id
    assert first.startswith("imported-")
    elsewhere = row.replace("2024-05-31T20:00:00Z", "2024-05-31 16:00")
    local = history_of(file, f"{head},entry_price\n{elsewhere},12\n", Layout(zone="America/New_York"))
    assert local.signals[0].event.signal_id == first
    assert local.trades[0].event.signal_id == first
    assert history_of(file, f"{head}\n{row.replace('ACME', 'B')}\n").signals[0].event.signal_id != first


def test_signals_and_their_trades_may_be_two_files(tmp_path: Path) -> None:
    signals, trades = tmp_path / "signals.csv", tmp_path / "trades.csv"
    signals.write_text("signal_id,timestamp,symbol\na-1,2024-05-31,ACME\na-2,31.5.2024,ACME\na-3,2024-05-31,ACME\n")
    trades.write_text(
        "symbol,timestamp,signal_id,closed_at,r_multiple,note\n"
        "ACME,2024-05-31,a-1,2024-06-03,1,x\n"
        "ACME,,a-2,2024-06-03,2,\n"
    )
    layout = Layout(values={"asset_class": "equity", "signal_type": "breakout"})
    history = read_history([read_table(signals), read_table(trades)], layout, now=NOW, limits=Limits())
    assert [one.event.signal_id for one in history.signals] == ["a-1", "a-3"]
    assert [one.event.signal_id for one in history.trades] == ["a-1"]
    assert [(row.place, row.reason) for row in history.refused] == [
        ("signals.csv row 3", "bad_time"),
        ("trades.csv row 3", "signal_refused"),
    ]
    assert history.passed_over == {"trades.csv": ["note"]}


def test_options_stand_over_what_is_remembered_and_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "refinery-import.toml"
    layout = Layout().with_options(
        columns=['timestamp=When, "local"', "features.depth=Tiefe ü"], values=["asset_class=equity"], zone="Asia/Tokyo"
    )
    path.write_text(layout.to_toml(), encoding="utf-8")
    assert read_layout(path) == layout
    later = read_layout(path).with_options(columns=["asset_class=Class"], values=["timestamp=2024-01-01"], zone=None)
    assert later.columns == {"features.depth": "Tiefe ü", "asset_class": "Class"}
    assert later.values == {"timestamp": "2024-01-01"}
    assert later.zone == "Asia/Tokyo"
    assert read_layout(tmp_path / "none.toml") == Layout()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[columns]\nfoo = 'x'\n", "'foo' is no field"),
        ("[column]\n", "nobody knows 'column'"),
        ("[form]\nzone = 'Nowhere/Else'\n", "is no time zone"),
        ("[columns]\ntimestamp = 1\n", "has to hold texts"),
        ("[form]\ndecimal = 'x'\n", "no decimal sign"),
        ("x\n", "line 1"),
    ],
)
def test_a_file_of_columns_that_is_none_is_one_line_with_its_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "refinery-import.toml"
    path.write_text(text)
    with pytest.raises(WrongColumns, match=rf"refinery-import.toml: .*{why}"):
        read_layout(path)


@pytest.mark.parametrize("option", ["timestamp", "=x", "timestamp=", "nonsense=x"])
def test_an_option_of_another_form_is_refused(option: str) -> None:
    with pytest.raises(WrongColumns):
        Layout().with_options(columns=[option], values=())
