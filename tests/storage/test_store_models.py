"""The registry, the ledger, the fence, and training runs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.storage.conftest import SteppingClock
from tests.support.rows import QUALITY, metadata
from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.storage import (
    ConstraintRefused,
    FeatureDatabase,
    StaleActivation,
    StoreError,
    UnknownModel,
)


@pytest.fixture
def models(db: FeatureDatabase) -> FeatureDatabase:
    for model_id in ("m1", "m2"):
        db.models.register(metadata(model_id), artefact_sha256=f"hash of {model_id}", recipe="ensemble")
    return db


def test_the_registry_keeps_what_the_artefact_is(db: FeatureDatabase) -> None:
    db.models.register(
        metadata(),
        model_path="m1.skops",
        artefact_sha256="ab",
        feature_version="standard-1",
        recipe="ensemble",
        run_id="r1",
    )
    row = db.models.get("m1")
    assert row is not None
    assert row.metadata == metadata()
    assert (row.model_path, row.artefact_sha256, row.feature_version, row.recipe, row.run_id, row.proven) == (
        "m1.skops", "ab", "standard-1", "ensemble", "r1", False,
    )  # fmt: skip
    assert db.models.get("nobody") is None


def test_the_bytes_are_kept_with_the_row_and_told_where_they_are_not(db: FeatureDatabase) -> None:
    data = bytes(range(256))
    sha256 = hashlib.sha256(data).hexdigest()
    db.models.register(metadata("m1"), model_path="m1.skops", artefact_sha256=sha256, data=data)
    db.models.register(metadata("m2"), model_path="m2.skops", artefact_sha256="ab")
    assert (db.artefacts.data(sha256), db.artefacts.data("ab")) == (data, None)
    assert db.artefacts.sound(sha256)
    assert db.artefacts.missing() == [("m2", "m2.skops", "ab")]
    with pytest.raises(ConstraintRefused):
        db.models.register(metadata("m1"), artefact_sha256=hashlib.sha256(b"x").hexdigest(), data=b"x")
    assert db.artefacts.data(hashlib.sha256(b"x").hexdigest()) is None
    with db.atomic():
        assert db.artefacts.keep(data) == sha256  # again


def test_an_id_is_registered_once(models: FeatureDatabase) -> None:
    with pytest.raises(ConstraintRefused):
        models.models.register(metadata("m1"))


def test_activation_retires_and_enters_the_ledger_at_once(models: FeatureDatabase, clock: SteppingClock) -> None:
    models.models.activate("m1", reason="first", expected_active=None)
    clock.move(days=1)
    models.models.activate("m2", reason="better", figures={"auc": np.float64(0.6)}, proven=True, expected_active="m1")
    before, now = models.models.get("m1"), models.models.active(QUALITY)
    assert before is not None
    assert now is not None
    assert (before.is_active, before.retired_at) == (False, "2024-06-02T12:00:00.000000Z")
    assert (now.model_id, now.proven, now.retired_at) == ("m2", True, None)
    newest, first = models.models.promotions()
    assert (newest.action, newest.model_id, newest.previous_model_id) == ("activate", "m2", "m1")
    assert (newest.artefact_sha256, newest.proven, newest.figures) == ("hash of m2", True, {"auc": 0.6})
    assert (first.model_id, first.previous_model_id, first.reason) == ("m1", None, "first")
    assert models.models.active_id(QUALITY) == "m2"


def test_the_ledger_of_one_model_is_found_however_much_came_after(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    for _ in range(3):
        models.models.note_verdict("reject", "m2", reason="no better")
    assert [entry.model_id for entry in models.models.promotions(1)] == ["m2"]
    assert [entry.reason for entry in models.models.promotions(1, model_id="m1")] == ["first"]
    assert models.models.promotions(model_type="risk_predictor", model_id="m1") == []


def test_recipes_and_the_proven_models_of_one_are_known(models: FeatureDatabase) -> None:
    models.models.register(metadata("m3"), recipe="gradient_boosting")
    models.models.register(metadata("m4"))
    models.models.activate("m1", reason="first", proven=True)
    models.models.activate("m2", reason="next", proven=True)
    models.models.activate("m3", reason="other", proven=True)
    assert models.models.recipes(QUALITY) == {("ensemble", None), ("gradient_boosting", None)}
    row = models.models.get("m1")
    assert row is not None
    assert sorted(models.models.alike(row, proven=True)) == ["m1", "m2"]


def test_a_decision_made_on_another_champion_is_stale(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    for expected in (None, "m2"):
        with pytest.raises(StaleActivation, match="m1"):
            models.models.activate("m2", reason="late", expected_active=expected)
    assert models.models.active_id(QUALITY) == "m1"
    assert len(models.models.promotions()) == 1


def test_a_run_that_another_has_overtaken_cannot_promote(models: FeatureDatabase) -> None:
    old = models.runs.start("r1", QUALITY, {}, label_watermark=0)
    other_type = models.runs.start("x1", ModelType.RISK_PREDICTOR.value, {}, label_watermark=0)
    models.models.activate("m1", reason="still the newest of its type", fence=old)
    new = models.runs.start("r2", QUALITY, {}, label_watermark=0)
    assert old < other_type < new
    with pytest.raises(StaleActivation, match="newest"):
        models.models.activate("m2", reason="a zombie", fence=old)
    models.models.activate("m2", reason="the living", fence=new)
    assert models.models.active_id(QUALITY) == "m2"


def test_a_run_that_was_given_up_cannot_promote(models: FeatureDatabase, clock: SteppingClock) -> None:
    token = models.runs.start("r1", QUALITY, {}, label_watermark=0)
    clock.move(hours=3)
    assert models.runs.finish("r1", "failed", error_message="gone silent")
    with pytest.raises(StaleActivation, match="given up"):
        models.models.activate("m1", reason="late", fence=token)


def test_activating_an_unknown_model_changes_nothing(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    with pytest.raises(UnknownModel):
        models.models.activate("nobody", reason="?")
    assert models.models.active_id(QUALITY) == "m1"


def test_activating_the_champion_again_is_not_a_promotion(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    models.models.activate("m1", reason="a retried call")
    assert len(models.models.promotions()) == 1


def test_models_of_different_types_do_not_retire_each_other(models: FeatureDatabase) -> None:
    risk = ModelMetadata("k1", ModelType.RISK_PREDICTOR, "1.0", "2024", "", "", 1, 1)
    models.models.register(risk)
    models.models.activate("m1", reason="first")
    models.models.activate("k1", reason="first")
    assert models.models.active_id(QUALITY) == "m1"
    assert models.models.active_id("risk_predictor") == "k1"
    assert {row.model_id for row in models.models.history()} == {"m1", "m2", "k1"}


def test_a_champion_can_be_demoted_proven_and_retired(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first", proven=True)
    assert models.models.set_proven("m1", False, reason="worse than the base rate")
    assert models.models.set_proven("m1", False, reason="again") is False
    assert models.models.set_proven("m1", True, reason="recovered")
    assert models.models.retire("m1", reason="by hand")
    assert models.models.retire("m1", reason="again") is False
    assert models.models.active(QUALITY) is None
    assert [entry.action for entry in models.models.promotions()] == ["retire", "prove", "demote", "activate"]
    with pytest.raises(UnknownModel):
        models.models.set_proven("nobody", True, reason="?")


def test_a_verdict_against_a_candidate_is_in_the_ledger(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    models.models.note_verdict("reject", "m2", reason="no skill", figures={"auc": 0.5}, run_id="r1")
    entry = models.models.promotions(limit=1)[0]
    assert (entry.action, entry.model_id, entry.previous_model_id, entry.run_id) == ("reject", "m2", "m1", "r1")
    assert models.models.active_id(QUALITY) == "m1"


@pytest.mark.parametrize("sql", ["UPDATE promotions SET reason = 'x'", "DELETE FROM promotions"])
def test_the_ledger_is_append_only(models: FeatureDatabase, sql: str) -> None:
    models.models.activate("m1", reason="first")
    with pytest.raises(StoreError, match="append-only"):
        models._connection.run(sql)
    assert models.models.promotions()[0].reason == "first"


def test_a_failure_on_the_way_leaves_the_champion(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    with pytest.raises(ValueError, match="finite"):
        models.models.activate("m2", reason="bad figures", figures={"curve": [0.5, float("nan")]})
    assert models.models.active_id(QUALITY) == "m1"
    assert len(models.models.promotions()) == 1


@pytest.mark.parametrize("bad", [float("inf"), np.float64("nan"), np.array([1.0, np.nan]), {"a": [float("nan")]}])
def test_metrics_that_are_not_finite_are_refused(db: FeatureDatabase, bad: object) -> None:
    with pytest.raises(ValueError, match="finite"):
        db.runs.start("r1", QUALITY, {"x": bad}, label_watermark=0)


def test_missing_metrics_are_none_and_stay_none(db: FeatureDatabase) -> None:
    db.runs.start("r1", QUALITY, {"limit": None, "grid": np.array([1, 2])}, label_watermark=0)
    run = db.runs.get("r1")
    assert run is not None
    assert run.config == {"limit": None, "grid": [1, 2]}


def test_a_run_is_followed_from_start_to_end(db: FeatureDatabase, clock: SteppingClock) -> None:
    db.runs.start("r1", QUALITY, {"recipe": "ensemble"}, label_watermark=120)
    running = db.runs.last(QUALITY)
    assert running is not None
    assert (running.status, running.label_watermark, running.completed_at) == ("running", 120, None)
    clock.move(seconds=5)
    assert db.runs.finish(
        "r1", "completed", train_samples=100, validation_samples=20, metrics={"auc": 0.6}, model_id="m1",
        verdict="PROMOTE", data_digest="ab", seconds=5.0,
    )  # fmt: skip
    run = db.runs.get("r1")
    assert run is not None
    assert (run.status, run.completed_at, run.metrics, run.verdict) == (
        "completed", "2024-06-01T12:00:05.000000Z", {"auc": 0.6}, "PROMOTE",
    )  # fmt: skip
    assert (run.config, run.train_samples, run.seconds, run.data_digest) == ({"recipe": "ensemble"}, 100, 5.0, "ab")


def test_a_run_ends_once(db: FeatureDatabase) -> None:
    db.runs.start("r1", QUALITY, {}, label_watermark=0)
    assert db.runs.finish("r1", "failed", error_message="one class only")
    assert db.runs.finish("r1", "completed") is False
    run = db.runs.last(QUALITY, "failed")
    assert run is not None
    assert run.error_message == "one class only"
    assert db.runs.last(QUALITY, "completed") is None
    with pytest.raises(ConstraintRefused):
        db.runs.start("r1", QUALITY, {}, label_watermark=0)


def test_runs_are_counted_by_verdict_and_serving_and_without_one_by_status(db: FeatureDatabase) -> None:
    held = {"verdict": "hold", "model_id": "m", "serves": "provisional"}
    for run_id, ended in (("r1", {"verdict": "hold", "serves": "no"}), ("r2", held), ("r3", {})):
        db.runs.start(run_id, QUALITY, {}, label_watermark=0)
        db.runs.finish(run_id, "completed", **ended)  # type: ignore[arg-type]
    db.runs.start("r4", QUALITY, {}, label_watermark=0)
    assert db.runs.count_by_ending() == {
        ("too_few_samples", ""): 1,
        ("hold", "provisional"): 1,
        ("completed", ""): 1,
        ("running", ""): 1,
    }


def test_a_pinned_model_is_not_replaced_by_a_training_and_the_ledger_says_who_keeps_it(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    assert models.models.pin("m1", actor="dana", reason="m2 misbehaved")
    assert not models.models.pin("m1", actor="eve", reason="again")
    with pytest.raises(StaleActivation, match="pinned by dana"):
        models.models.activate("m2", reason="better", run_id="r2")
    pinned = models.models.pinned(QUALITY)
    assert pinned is not None
    assert (pinned.model_id, pinned.pinned_by, models.models.active_id(QUALITY)) == ("m1", "dana", "m1")
    [entry] = models.models.promotions(1)
    assert (entry.action, entry.model_id, entry.actor, entry.reason) == ("pin", "m1", "dana", "m2 misbehaved")


def test_once_unpinned_a_training_may_replace_it(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    models.models.pin("m1", actor="dana", reason="kept")
    assert models.models.unpin(QUALITY, actor="eve", reason="well again") == "m1"
    assert models.models.unpin(QUALITY, actor="eve", reason="well again") is None
    models.models.activate("m2", reason="better", run_id="r2")
    assert models.models.active_id(QUALITY) == "m2"
    assert [entry.action for entry in models.models.promotions()] == ["activate", "unpin", "pin", "activate"]


@pytest.mark.parametrize("leave", ["activate", "retire"])
def test_a_pin_ends_when_an_operator_takes_its_model_out_of_service(models: FeatureDatabase, leave: str) -> None:
    models.models.activate("m1", reason="first")
    models.models.pin("m1", actor="dana", reason="kept")
    if leave == "activate":
        models.models.activate("m2", reason="by hand")
    else:
        models.models.retire("m1", reason="by hand")
    assert models.models.pinned(QUALITY) is None
    assert "unpin" in [entry.action for entry in models.models.promotions()]


def test_a_model_that_serves_already_is_pinned_by_activating_it_again(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first")
    models.models.activate("m1", reason="keep it", actor="dana", pin=True)
    pinned = models.models.pinned(QUALITY)
    assert pinned is not None
    assert (pinned.model_id, pinned.pinned_by) == ("m1", "dana")


def test_a_model_that_a_statement_of_ones_own_retires_is_pinned_no_more(models: FeatureDatabase) -> None:
    models.models.activate("m1", reason="first", actor="dana", pin=True)
    models._connection.run("UPDATE model_registry SET is_active = 0 WHERE model_id = 'm1'")
    assert models.models.pinned(QUALITY) is None
    models.models.activate("m2", reason="better", run_id="r2")
    models.models.pin("m2", reason="kept", actor="dana")


def test_only_a_model_that_serves_can_be_pinned(models: FeatureDatabase) -> None:
    with pytest.raises(StaleActivation, match="does not serve"):
        models.models.pin("m1", actor="dana", reason="kept")
    with pytest.raises(UnknownModel):
        models.models.pin("nobody", actor="dana", reason="kept")
