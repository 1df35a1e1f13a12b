"""The results of long benchmarks and their table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import Book
from benchmarks.learning_table import summary
from benchmarks.results import Results
from benchmarks.table_rows import markdown, share_interval
from trading_system.simulation.learning_experiments import Experiment
from trading_system.simulation.seeds import Case, Seeds, generator


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


def test_a_book_measures_what_is_missing_with_the_randomness_of_what_it_is_drawn_for(tmp_path: Path) -> None:
    def drawn(case: Case, rng: np.random.Generator) -> dict[str, float]:
        return {"drawn": float(rng.random()) + case[0]}

    book = Book([Experiment("canary", [(0,), (1,), (2,)], drawn)], Results(tmp_path / "learning.jsonl", "now"))
    book.measure(Seeds.REPORTING, only=[], quick=True, deadline=math.inf)
    book.measure(Seeds.REPORTING, only=["desk"], quick=False, deadline=math.inf)
    assert [line["case"] for line in book.results.lines()] == [[0]]
    book.measure(Seeds.CHOOSING, only=["canary"], quick=False, deadline=math.inf)
    reported, chosen = generator("canary", (0,)), generator("canary", (1,), Seeds.CHOOSING)
    drawn_for = [line["drawn"] for line in book.results.lines()]
    assert drawn_for[:2] == pytest.approx([reported.random(), chosen.random() + 1], abs=1e-6)
    assert len(drawn_for) == 3


def desk(first_proof: float | None, share: float, **ended: object) -> dict[str, object]:
    """A line of a desk."""
    named = ("share", "share_on_outcomes", "auc", "truth_auc", "uplift", "truth_uplift", "proven_before")
    line: dict[str, object] = {"part": "desk", "case": [share], **dict.fromkeys(named, share), "lost": [], **ended}
    calibration = {
        "error_quarter": [0.0, 6.0, 7.0, 20.0],
        "error": [0.01, 9.0, 0.03, 0.05],
        "slope_quarter": [7.0, 8.0],
        "slope": [1.0, 0.0],
        "slope_information": [30.0, 10.0],
    }
    return line | calibration | ({} if first_proof is None else {"first_proof": first_proof})


def test_the_table_of_desks_counts_what_was_never_proven_and_does_not_judge_what_cannot_end() -> None:
    rows = {row["figure"]: row for row in summary([desk(200.0, 0.7), desk(None, 0.5), desk(400.0, 0.6)])}
    share = rows["desk: share of attainable AUC, as served, while the edge lives"]
    assert (share["measured"], share["evidence"], share["reached"]) == ("0.60", "3 worlds, s.e. 0.058", "NO")
    assert rows["desk: proven within 12 months of the edge's beginning"]["measured"] == "33.3 %"
    ended = rows["desk: proof ended within 180 days of death"]
    assert (ended["measured"], ended["reached"]) == ("not known", "NO")
    error = rows["desk: true calibration error by quarter"]["measured"]
    assert error == "0.010 before, 0.030 while alive, 0.050 after"
    assert rows["desk: calibration slope by quarter"]["measured"] == "0.75 while alive"


def test_the_table_of_desks_tells_of_proofs_that_ended() -> None:
    lines = [desk(200.0, 0.7, ended_in_time=1.0, lost=[0.0, 1.0]), desk(200.0, 0.7, ended_in_time=0.0, lost=[0.0] * 18)]
    rows = {row["figure"]: row for row in summary(lines)}
    assert rows["desk: proof ended within 180 days of death"]["measured"] == "50.0 %"
    false = rows["desk: ended falsely while alive, per look"]
    assert (false["measured"], false["reached"]) == ("0.050", "yes")


def test_the_table_of_noise_counts_looks_by_world_and_years_by_year() -> None:
    def world(weekly: list[float], seldom: list[float], years: list[float]) -> dict[str, object]:
        told = {"proven_7": weekly, "proven_21": seldom, "years_7": years, "years_21": [0.0] * len(years)}
        return {"part": "noise", "case": ["clustered", 0], **told}

    rows = summary([world([0.0] * 8 + [1.0, 1.0], [0.0] * 4, [1.0, 0.0]), world([0.0] * 3, [0.0], [])])
    told = {row["figure"]: (row["measured"], row["reached"]) for row in rows}
    assert told["false proofs per retraining, weekly, clustered"] == ("10.0 %", "NO")
    assert told["false proofs per retraining, every 21 days, clustered"] == ("0.0 %", "yes")
    assert told["years with any false proof, looks weekly, clustered"] == ("50.0 %", "NO")
    assert told["years with any false proof, looks every 21 days, clustered"] == ("0.0 %", "yes")


def test_the_table_of_the_limit_is_a_ratio_of_means() -> None:
    cases = [["linear", 0.6, 150, 0], ["mixed", 0.7, 150, 0]]
    lines = [
        {"part": "limit", "case": case, "served": s, "limit": 0.5} for case, s in zip(cases, (0.5, 0.3), strict=True)
    ]
    [row] = summary(lines)
    assert (row["figure"], row["measured"], row["reached"]) == ("share of the Bayes limit, as served", "0.80", "NO")
    assert row["evidence"].startswith("0.400 of 0.500 in 2 worlds of 2 cells; s.e.")
