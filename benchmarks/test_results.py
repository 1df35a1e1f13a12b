"""The results of long benchmarks and their table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.learning_table import markdown, share_interval, summary
from benchmarks.results import Results


def test_results_are_kept_case_by_case_and_only_those_of_the_same_behaviour_count(tmp_path: Path) -> None:
    path = tmp_path / "results" / "learning.jsonl"
    results = Results(path, "now")
    Results(path, "before").add("schedules", (0,), {"schedules": 1.0})
    results.add("schedules", (1,), {"schedules": 2.0})
    results.add("schedules", (1,), {"schedules": 3.0})
    assert results.missing("schedules", [(0,), (1,)]) == [(0,)]
    assert [line["schedules"] for line in results.lines()] == [2.0]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_the_table_says_what_is_missed() -> None:
    lines = [
        {"part": "schedules", "case": [0], "schedules": 500, "folds": 900, "violations": violations}
        for violations in (0, 2)
    ]
    (row,) = summary(lines)
    assert (row["measured"], row["reached"]) == ("2", "NO")
    assert "1,000 schedules" in markdown([row])
    assert json.loads(json.dumps(summary(lines[:1])))[0]["reached"] == "yes"


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    assert share_interval(0, 100) == (0.0, pytest.approx(0.0362, abs=1e-4))
    low, high = share_interval(5, 100)
    assert (low, high) == (pytest.approx(0.0164, abs=1e-4), pytest.approx(0.1128, abs=1e-4))
