"""What a market-data directory holds: each file by its content, read once and again when it has changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.market_data.contents import UNREADABLE, Contents, digest_of

_opened: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@pytest.fixture(scope="module", autouse=True)
def _told_of_what_is_opened() -> None:
    """The interpreter tells of every file that is opened; a hook stays until it ends."""
    sys.addaudithook(_note)


@pytest.fixture
def market(tmp_path: Path) -> Path:
    for name in ("ACME.csv", "OMEGA.parquet", "notes.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def opened_in(market: Path) -> set[str]:
    return {Path(path).name for path in _opened if Path(path).parent == market}


def test_equal_files_have_equal_digests_wherever_and_whenever_they_were_written(market: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("OMEGA.parquet", "ACME.csv"):
        (other / name).write_text(name)
        os.utime(other / name, (1, 1))
    assert Contents(market).look() == Contents(other).look()
    assert digest_of(Contents(market).look()) == digest_of(Contents(other).look())


def test_a_file_is_read_once_and_again_when_it_has_changed(market: Path) -> None:
    contents = Contents(market)
    _opened.clear()
    contents.look()
    assert opened_in(market) == {"ACME.csv", "OMEGA.parquet"}
    _opened.clear()
    contents.look()
    assert opened_in(market) == set()
    (market / "ACME.csv").write_text("ACME,csv")
    contents.look()
    assert opened_in(market) == {"ACME.csv"}


def test_a_change_that_keeps_size_and_time_is_seen(market: Path) -> None:
    contents, path = Contents(market), market / "ACME.csv"
    before, stat = contents.look(), path.stat()
    path.write_text("ACME,csv")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = contents.look()
    assert after["ACME.csv"] != before["ACME.csv"]
    assert after["OMEGA.parquet"] == before["OMEGA.parquet"]


def test_a_name_that_is_exchanged_makes_another_digest(market: Path) -> None:
    before = digest_of(Contents(market).look())
    (market / "ACME.csv").rename(market / "ACNE.csv")
    assert digest_of(Contents(market).look()) != before


def test_a_file_that_cannot_be_read_differs_from_one_that_can_and_is_tried_again(market: Path) -> None:
    (market / "GONE.csv").symlink_to(market / "nowhere")  # as good as not there
    (market / "ODD.csv").mkdir()
    contents = Contents(market)
    assert contents.look()["ODD.csv"] == UNREADABLE
    assert "GONE.csv" not in contents.look()
    (market / "ODD.csv").rmdir()
    (market / "ODD.csv").write_text("bars")
    assert contents.look()["ODD.csv"] != UNREADABLE


def test_no_directory_is_as_an_empty_one_and_one_that_is_gone_is_told(market: Path) -> None:
    (market / "empty").mkdir()
    assert Contents(None).look() == Contents(market / "empty").look() == {}
    with pytest.raises(OSError, match="nowhere"):
        Contents(market / "nowhere").look()
