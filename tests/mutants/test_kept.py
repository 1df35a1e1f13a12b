"""The list of lines that are broken on purpose names lines and tests that are there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.mutants.__main__ import ROOT, TURNS, todays
from tests.mutants.kept import Line, broken, faults, kept_lines

LINES = kept_lines()


def test_every_line_of_the_list_is_found_once_and_its_tests_are_there() -> None:
    assert faults(LINES, ROOT) == []
    assert len(LINES) >= 80


def test_a_line_that_is_gone_or_stands_twice_and_a_test_that_is_gone_are_told() -> None:
    one = LINES[0]
    assert "found 0 times" in faults([replace(one, text="no such line anywhere")], ROOT)[0]
    assert "found" in faults([replace(one, text="\n")], ROOT)[0]
    assert "there is no test" in faults([replace(one, tests=("tests/test_bars.py::test_nobody_wrote",))], ROOT)[0]
    assert "breaks nothing" in faults([replace(one, broken=one.text)], ROOT)[0]
    assert "stands twice" in faults([one, one], ROOT)[0]
    with pytest.raises(ValueError, match="2 times"):
        broken("a a", Line("", "", "file", "a", "b", ()))
    assert broken("a c", Line("", "", "file", "a", "b", ())) == "b c"


def test_every_line_has_its_turn() -> None:
    by_day = [todays(LINES, day) for day in range(TURNS)]
    assert {line for lines in by_day for line in lines} == set(LINES)
    assert sum(map(len, by_day)) == len(LINES)
    assert max(map(len, by_day)) <= 20


def test_a_line_that_is_added_moves_no_others_turn() -> None:
    for day in range(TURNS):
        assert todays(LINES[1:], day) == [line for line in todays(LINES, day) if line != LINES[0]]
