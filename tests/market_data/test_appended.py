"""Files that grow at their end are parsed from there on, and give what they give when they are read whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.valid_events import bars
from worker.market_data import directory, files
from worker.market_data.directory import DirectorySource
from worker.market_data.files import BadFileError, BarFile, read_bars

COLUMNS = bars(12)
HEADER = ",".join(COLUMNS) + "\n"
ROWS = [",".join(map(str, row)) + "\n" for row in zip(*COLUMNS.values(), strict=True)]


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", 5)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each reading parsed."""
    counts: list[int] = []
    instants = files._instants

    def counting(texts: list[Any], bar: int = 0) -> Any:
        counts.append(len(texts))
        return instants(texts, bar)

    monkeypatch.setattr(files, "_instants", counting)
    return counts


def same(one: BarFile, other: BarFile) -> bool:
    names = ("timestamp", "open", "high", "low", "close", "volume")
    return all(np.array_equal(getattr(one.bars, name), getattr(other.bars, name)) for name in names)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_what_is_appended_is_all_that_is_parsed_and_the_bars_are_those_of_the_whole(
    mark: str, ending: str, tmp_path: Path, parsed: list[int]
) -> None:
    path = tmp_path / "A.csv"
    lines = [line.replace("\n", ending) for line in (mark + HEADER, *ROWS)]
    for first in range(len(ROWS) + 1):
        path.write_text("".join(lines[: first + 1]), newline="")
        before = read_bars(path)
        path.write_text("".join(lines), newline="")
        parsed.clear()
        after = read_bars(path, before)
        assert sum(parsed) == len(ROWS) - first
        assert same(after, read_bars(path))
        assert len(after.bars) == len(ROWS)


@pytest.mark.parametrize(
    "written",
    [
        HEADER + "".join([ROWS[0], *ROWS[2:]]),  # a row taken out
        HEADER + "".join([ROWS[0].replace(",", ",1", 1), *ROWS[1:]]) + "\n",
        HEADER + "".join(ROWS[:4]),  # shorter
        HEADER + "".join(ROWS[:8])[:-5],  # a row that is not whole: its last number is another then
        HEADER + "".join(ROWS[:8]) + "\n\n",
    ],
)
def test_what_is_not_only_appended_is_read_whole(written: str, tmp_path: Path, parsed: list[int]) -> None:
    path = tmp_path / "A.csv"

    def read(before: BarFile | None = None) -> BarFile | str:
        try:
            return read_bars(path, before)
        except BadFileError as error:
            return str(error)

    path.write_text(HEADER + "".join(ROWS[:6]))
    before = read_bars(path)
    path.write_text(written)
    found, whole = read(before), read()
    assert same(found, whole) if isinstance(found, BarFile) and isinstance(whole, BarFile) else found == whole
    path.write_text(HEADER + "".join(ROWS))
    parsed.clear()
    assert same(read_bars(path, found if isinstance(found, BarFile) else None), read_bars(path))


@pytest.mark.parametrize(
    "appended",
    [
        "\n" + ROWS[9],
        ROWS[9].replace(",", ",x", 1),
        ROWS[9].replace("\n", ",1\n"),
        ROWS[3],
        ROWS[9] + ROWS[9],
        "yesterday" + ROWS[9][ROWS[9].index(",") :],
        ROWS[9] + '"',
        ROWS[9] + "\n" * 7 + ROWS[10],
    ],
)
def test_what_is_appended_is_refused_with_the_words_for_the_whole(appended: str, tmp_path: Path) -> None:
    path = tmp_path / "A.csv"
    path.write_text(HEADER + "".join(ROWS[:9]))
    before = read_bars(path)
    path.write_text(HEADER + "".join(ROWS[:9]) + appended)
    with pytest.raises(BadFileError) as whole:
        read_bars(path)
    with pytest.raises(BadFileError) as after:
        read_bars(path, before)
    assert str(after.value) == str(whole.value)


def test_an_empty_line_in_the_middle_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "A.csv"
    for place in range(len(ROWS)):
        path.write_text(HEADER + "".join([*ROWS[:place], "\n\n", *ROWS[place:]]))
        with pytest.raises(BadFileError, match=f"^line {place + 2} has 0 fields, the header 6$"):
            read_bars(path)


def test_a_directory_goes_on_with_what_it_read_and_keeps_so_many_bytes(
    tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_MOST_KEPT_BYTES", 3 * 48 * len(ROWS))
    source = DirectorySource(tmp_path, benchmark_symbols={})
    for name in "ABCDE":
        (tmp_path / f"{name}.csv").write_text(HEADER + "".join(ROWS[:10]))

    def rows_parsed(name: str) -> int:
        parsed.clear()
        found = source.bars(name)
        assert not isinstance(found, directory.NoMarketData)
        return sum(parsed)

    assert [rows_parsed(name) for name in "ABCABC"] == [10, 10, 10, 0, 0, 0]
    for rows in (ROWS[10], ROWS[11]):
        with (tmp_path / "A.csv").open("a") as file:
            file.write(rows)
            os.utime(file.fileno(), ns=(0, 0))
        assert rows_parsed("A") == 1
    assert [rows_parsed(name) for name in "DAC"] == [10, 0, 0]  # B was not asked for longest
    assert rows_parsed("B") == 10
    assert [rows_parsed(name) for name in "ACB"] == [0, 0, 0]
