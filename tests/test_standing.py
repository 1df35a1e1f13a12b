"""How what serves stands, by the ledger: proven since when, and why not; and its entries in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from tests.support.learning_installation import NOW
from tests.support.rows import metadata
from trading_system.ml_refinement.standing import IN_WORDS, NotProven, Standing, read_standing
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN, ROLLED_BACK
from trading_system.ml_refinement.training.verdicts import Decision, Serve, entry_in_words, in_words, run_in_words

QUALITY = "signal_quality"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[FeatureDatabase]:
    """A store with models m0 to m4, and a clock that moves on with each reading."""
    seconds = count()
    with FeatureDatabase(tmp_path / "features.db", clock=lambda: NOW + timedelta(seconds=next(seconds))) as db:
        for number in range(5):
            db.register_model(metadata(f"m{number}"))
        yield db


def let_serve(db: FeatureDatabase, model_id: str, *, code: str | None = None, reason: str = "why") -> str:
    """Let a model serve as a training does; the time of its entry."""
    figures = {NOT_PROVEN: code} if code else {"auc": 0.6}
    db.models.activate(model_id, reason=reason, figures=figures, proven=code is None, run_id="r1")
    return db.models.promotions(1)[0].at


def end(db: FeatureDatabase, model_id: str, code: str) -> str:
    db.models.set_proven(model_id, False, reason=f"it ended: {code}", figures={NOT_PROVEN: code}, actor="gate")
    return db.models.promotions(1)[0].at


def test_without_a_model_there_is_nothing_to_say(db: FeatureDatabase) -> None:
    assert read_standing(db.models, QUALITY) is None


def test_what_was_never_proven_says_what_the_gate_found(db: FeatureDatabase) -> None:
    let_serve(db, "m1", code="too_little_evidence", reason="89 of 100 rows")
    expected = Standing("m1", False, None, NotProven.TOO_LITTLE_EVIDENCE, "89 of 100 rows")
    assert read_standing(db.models, QUALITY) == expected


def test_a_line_of_proven_models_is_proven_since_its_first(db: FeatureDatabase) -> None:
    let_serve(db, "m0", code="never_shown")
    since = let_serve(db, "m1", reason="AUC 0.6")
    let_serve(db, "m2", reason="AUC 0.7")
    db.models.note_verdict("reject", "m3", reason="no better", figures={NOT_PROVEN: "not_better"})
    assert read_standing(db.models, QUALITY) == Standing("m2", True, since, None, "AUC 0.7")


def test_a_proof_that_ended_explains_what_serves_until_another_comes(db: FeatureDatabase) -> None:
    let_serve(db, "m0")
    ended = end(db, "m0", "skill_not_shown")
    expected = Standing("m0", False, ended, NotProven.SKILL_NOT_SHOWN, "it ended: skill_not_shown")
    assert read_standing(db.models, QUALITY) == expected
    let_serve(db, "m1", code="never_shown")
    follower = read_standing(db.models, QUALITY)
    assert follower == Standing("m1", False, ended, NotProven.SKILL_NOT_SHOWN, "it ended: skill_not_shown")
    since = let_serve(db, "m2")
    assert read_standing(db.models, QUALITY) == Standing("m2", True, since, None, "why")


def test_what_an_operator_lets_serve_keeps_what_the_gate_said_of_it(db: FeatureDatabase) -> None:
    let_serve(db, "m0", code="never_shown")
    db.models.note_verdict("reject", "m1", reason="log loss", figures={NOT_PROVEN: "worse_than_base_rate"})
    db.models.activate("m1", reason="I like it", actor="dana")
    found = read_standing(db.models, QUALITY)
    assert found == Standing("m1", False, None, NotProven.WORSE_THAN_BASE_RATE, "log loss")
    db.models.activate("m2", reason="from a notebook", actor="dana")
    assert read_standing(db.models, QUALITY) == Standing("m2", False, None, NotProven.NOT_RECORDED, "from a notebook")


def test_entries_of_earlier_releases_and_codes_of_later_ones_are_not_recorded(db: FeatureDatabase) -> None:
    let_serve(db, "m0")
    db.models.set_proven("m0", False, reason="an old one")
    found = read_standing(db.models, QUALITY)
    assert found is not None
    assert (found.not_proven, found.why) == (NotProven.NOT_RECORDED, "an old one")
    let_serve(db, "m1")
    end(db, "m1", "of_the_future")
    later = read_standing(db.models, QUALITY)
    assert later is not None
    assert later.not_proven is NotProven.NOT_RECORDED


def test_every_verdict_tells_gate_and_serving_apart_and_promoted_is_of_proven_ones() -> None:
    told = {(d, s): in_words(d, s) for d in Decision for s in Serve}
    assert {pair for pair, words in told.items() if "promoted" in words} == {(d, Serve.PROVEN) for d in Decision}
    assert told[Decision.REJECT, Serve.PROVISIONAL] == "not proven (skill is not shown): serves provisionally"
    assert told[Decision.HOLD, Serve.NO] == "not proven yet (too little evidence): does not serve"
    assert told[Decision.PROMOTE, Serve.NO] == "proven: does not serve"
    assert in_words("reject", "no", "not_better") == "not proven (no better than what serves): does not serve"
    assert set(IN_WORDS) == set(NotProven)
    assert not any("reject" in words or "hold" in words for words in told.values())


def test_trainings_are_told_by_how_they_ended(db: FeatureDatabase) -> None:
    ends = {
        "a": ("completed", {"verdict": "hold", "metrics": {"samples": 40}}),
        "b": ("completed", {"verdict": "reject", "serves": "provisional", "model_id": "m0"}),
        "c": ("failed", {"error_message": "one_class"}),
        "d": ("completed", {"verdict": "promote", "serves": "proven", "model_id": "m1"}),
    }
    for run_id, (status, fields) in ends.items():
        db.runs.start(run_id, QUALITY, {}, label_watermark=0)
        db.runs.finish(run_id, status, **fields)  # type: ignore[arg-type]
    db.runs.start("e", QUALITY, {}, label_watermark=0)
    told = {run.run_id: run_in_words(run) for run in db.runs.recent()}
    assert told == {
        "a": "too few samples: nothing was trained",
        "b": "not proven (skill is not shown): serves provisionally",
        "c": "failed",
        "d": "promoted",
        "e": "running",
    }


def test_entries_of_the_ledger_are_told_by_what_was_done(db: FeatureDatabase) -> None:
    let_serve(db, "m0", code="never_shown")
    let_serve(db, "m1")
    db.models.note_verdict("reject", "m2", reason="no")
    db.models.note_verdict("hold", "m3", reason="no")
    end(db, "m1", "harm")
    db.models.activate("m0", reason="back", figures={ROLLED_BACK: "m1"})
    db.models.activate("m2", reason="mine")
    db.models.pin("m2", reason="mine")
    told = [entry_in_words(entry) for entry in reversed(db.models.promotions())]
    assert told == [
        "serves provisionally", "promoted", "not proven", "not proven yet", "proof ended",
        "rolled back to, provisional", "activated by hand, provisional", "pinned",
    ]  # fmt: skip
