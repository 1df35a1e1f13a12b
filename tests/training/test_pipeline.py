"""One training, end to end: what is proven, what is not, how every failure is named, and that the champion survives."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import (
    NOW,
    VERSION,
    LearningInstallation,
    dataset,
    fitted,
    learning_installation,
    names,
    narrow,
    quick,
)
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.errors import LabelAmongFeatures
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.tables.runs import TrainingRun
from trading_system.ml_refinement.storage.tables.scores import PredictionRow
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import check_dataset, read_dataset, suspicious_features
from trading_system.ml_refinement.training.recipes import config_of
from trading_system.ml_refinement.training.verdicts import Decision, Serve
from trading_system.simulation.worlds import World, clustered, independent

QUALITY = "signal_quality"


def strong(rows: int = 900, seed: int = 0) -> World:
    return narrow(independent(rows, np.random.default_rng(seed), kind="linear", auc=0.7, per_day=1.5))


def null(rows: int = 700, seed: int = 0) -> World:
    return narrow(independent(rows, np.random.default_rng(seed), per_day=1.5))


def cut(world: World, rows: np.ndarray) -> World:
    return World(world.X[rows], world.r[rows], world.truth[rows], world.entered_us[rows], world.known_us[rows])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> LearningInstallation:
    """A store with a proven champion, to be copied."""
    installation = learning_installation(tmp_path_factory.mktemp("proven"), strong())
    assert installation.train().verdict.serve is Serve.PROVEN
    installation.db.close()
    return installation


@pytest.fixture
def proven(template: LearningInstallation, tmp_path: Path) -> LearningInstallation:
    shutil.copytree(template.directory, tmp_path / "installation")
    installation = learning_installation(tmp_path / "installation", columns=template.feature_names)
    installation.runs = 1
    return installation


def test_a_world_with_skill_is_proven_and_everything_about_the_run_is_kept(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", strong())
    told: list[str] = []
    result = installation.train(progress=lambda stage, done, total: told.append(stage))
    assert (result.status, result.verdict.decision) == ("completed", Decision.PROMOTE)
    active = installation.db.models.active(QUALITY)
    assert (active.model_id, active.proven) == (result.model_id, True)
    run = installation.db.runs.get("run-1")
    assert (run.status, run.model_id, run.verdict) == ("completed", result.model_id, "promote")
    assert run.config["training"]["model_type"] == "ensemble"
    assert run.metrics["auc"] > 0.55
    assert len(run.data_digest) == len(run.metrics["model_digest"]) == 64
    assert run.label_watermark == 900
    assert run.seconds > 0
    [entry] = installation.db.models.promotions(1, QUALITY)
    assert (entry.action, entry.actor) == ("activate", "gate")
    assert list(dict.fromkeys(told)) == ["data", "folds", "fit", "register"]
    assert active.metadata.train_start_date < active.metadata.train_end_date


@pytest.mark.parametrize("seed", [0, 1])
def test_on_noise_nothing_is_proven_and_the_interval_of_the_auc_holds_a_half(tmp_path: Path, seed: int) -> None:
    installation = learning_installation(tmp_path / "installation", null(seed=seed))
    result = installation.train()
    assert result.verdict.serve is not Serve.PROVEN
    assert result.figures["auc_low"] <= 0.5 <= result.figures["auc_high"]
    active = installation.db.models.active(QUALITY)
    assert active is None or not active.proven


def test_shared_luck_is_not_taken_for_skill(tmp_path: Path) -> None:
    installation = learning_installation(
        tmp_path / "installation", narrow(clustered(400, np.random.default_rng(3), per_day=2), 50)
    )
    assert installation.train().verdict.serve is not Serve.PROVEN


def test_the_same_store_trains_the_same_model_to_the_bit(tmp_path: Path) -> None:
    results = [learning_installation(tmp_path / name, null(300)).train() for name in ("one", "two")]
    assert results[0].figures == results[1].figures
    assert results[0].model_id != results[1].model_id


def test_a_run_is_repeated_to_the_bit_from_its_row(tmp_path: Path) -> None:
    """Later, with more labels in the store, other settings, and another model serving."""
    world = null(300)
    installation = learning_installation(tmp_path / "installation", world)
    told = quick(max_features=9, hyperparameters={"max_iter": 7, "random_state": 3})
    told.features.scaling_method = "robust"
    then = datetime(2010, 6, 1, tzinfo=UTC)
    first = installation.train(told, clock=lambda: then)
    assert first.status == "completed"
    installation.train()
    run = installation.db.runs.get("run-1")
    again = installation.train(config_of(run), pipeline_names=run.config["feature_names"], clock=lambda: then)
    repeated = installation.db.runs.get("run-3")
    assert run.train_samples < installation.db.runs.get("run-2").train_samples
    assert repeated.data_digest == run.data_digest
    assert repeated.config == run.config
    assert digests(repeated) == digests(run)
    assert len(digests(run)) == 3
    assert installation.registry.load(again.model_id).digest() == installation.registry.load(first.model_id).digest()


def digests(run: TrainingRun) -> list[str]:
    """Of every model of a run."""
    beside = [told["model_digest"] for told in run.metrics["companions"].values() if "model_digest" in told]
    return [run.metrics["model_digest"], *beside]


def test_labels_may_come_in_any_order_and_twice_and_corrected(tmp_path: Path) -> None:
    world = null(300)
    straight = learning_installation(tmp_path / "straight", world)
    crooked = learning_installation(
        tmp_path / "crooked", World(world.X, world.r * 0 + 9.0, world.truth, world.entered_us, world.known_us)
    )
    corrections = [
        OutcomeRow(f"s{i:06d}", 1, text_from_us(int(world.known_us[i])), float(world.r[i]))
        for i in np.random.default_rng(0).permutation(300)
    ]
    crooked.db.outcomes.record(corrections)
    crooked.db.outcomes.record(corrections[::-1])
    assert crooked.train().figures == straight.train().figures


@pytest.mark.parametrize("rows", [100, 130, 180, 240])
def test_with_little_data_a_run_ends_in_a_verdict(tmp_path: Path, rows: int) -> None:
    installation = learning_installation(tmp_path / "installation", null(rows))
    result = installation.train()
    assert result.status == "completed"
    assert result.verdict.decision in (Decision.HOLD, Decision.REJECT)
    assert installation.db.runs.get("run-1").verdict == result.verdict.decision


def test_sparse_signals_over_many_years_are_trained_on(tmp_path: Path) -> None:
    world = narrow(independent(400, np.random.default_rng(0), per_day=0.1, hold_days=31))
    result = learning_installation(tmp_path / "installation", world).train()
    assert result.status == "completed"
    assert result.figures["folds"] >= 5
    folds = result.figures["fold_figures"]
    assert len(folds) == result.figures["folds"]
    assert [fold["from"] for fold in folds] == sorted(fold["from"] for fold in folds)
    pooled = sum(fold["rows"] * fold["log_loss"] for fold in folds) / sum(fold["rows"] for fold in folds)
    assert pooled == pytest.approx(result.figures["log_loss"])


def test_what_no_window_reaches_is_not_read_and_changes_nothing(tmp_path: Path) -> None:
    """Years before the first window: the same evidence, the same models."""
    world = narrow(independent(1400, np.random.default_rng(0), per_day=1.0))
    known = world.entered_us + 10 * DAY_US
    world = World(world.X, world.r, world.truth, world.entered_us, known)
    all_of_it, recent = (
        learning_installation(tmp_path / "all", world),
        learning_installation(tmp_path / "recent", cut(world, np.arange(600, 1400))),
    )
    config = quick(hyperparameters={"max_iter": 4})
    version = {"feature_version": VERSION, "now_us": int(known.max()) + DAY_US}
    start = backtest.first_needed(all_of_it.db, config, **version)
    data = read_dataset(all_of_it.db, names=names(world), start=start, **version)
    assert 690 < len(data.r) < 720
    assert all_of_it.train(config).figures == recent.train(config).figures
    sparse = learning_installation(tmp_path / "sparse", cut(world, np.arange(0, 1400, 20)))
    assert backtest.first_needed(sparse.db, config, **version) is None


def test_history_that_ended_long_before_one_trade_of_today_is_said_with_the_rows_that_leaves(tmp_path: Path) -> None:
    old = null(300)
    late = int(old.known_us.max()) + 300 * DAY_US
    ends = {"entered_us": late - DAY_US, "known_us": late}
    entered, known = (np.append(getattr(old, name)[:-1], ends[name]) for name in ("entered_us", "known_us"))
    paused = World(old.X, old.r, old.truth, entered, known)
    result = learning_installation(tmp_path / "paused", paused).train(quick(hyperparameters={"max_iter": 4}))
    between = f"between {text_from_us(int(np.sort(known)[-2]))[:10]} and {text_from_us(late)[:10]}"
    assert f"no trade closed {between}: the window of 252 days counts back from the newest outcome" in result.reason
    assert "which leaves 0 rows to judge by and 50 to learn from" in result.reason
    assert backtest.pause_in_words(dataset(old), quick()) == ""


def test_a_pause_is_said_for_as_long_as_it_reaches_into_the_window() -> None:
    def words(pause_days: int, days_after: int) -> str:
        entered = np.concatenate([np.arange(200), 200 + pause_days + np.arange(days_after)]) * DAY_US
        rng = np.random.default_rng(0)
        X, r = rng.standard_normal((len(entered), 2)), rng.standard_normal(len(entered))
        return backtest.pause_in_words(dataset(World(X, r, r, entered, entered + DAY_US)), quick())

    assert words(120, 10) == ""
    assert "leaves 113 rows to judge by and 111 to learn from" in words(140, 100)
    assert "leaves 250 rows to judge by" in words(140, 250)
    assert words(140, 270) == ""


def failing_worlds() -> dict[str, World]:
    world = null(150)
    constant, missing, label = (world.X.copy() for _ in range(3))
    constant[:] = 1.0
    missing[:] = 7.0
    label[:, 4] = world.r + 0.1 * label[:, 4]
    return {
        "one_class": World(world.X, np.abs(world.r), world.truth, world.entered_us, world.known_us),
        "no_usable_features": World(constant, world.r, world.truth, world.entered_us, world.known_us),
        "label_among_features: x04": World(label, world.r, world.truth, world.entered_us, world.known_us),
    }


@pytest.mark.parametrize("reason", failing_worlds())
def test_bad_data_fails_the_run_by_name_and_leaves_the_champion_serving(tmp_path: Path, reason: str) -> None:
    installation = learning_installation(tmp_path / "installation", failing_worlds()[reason])
    serving = fitted()
    installation.registry.register(serving)
    installation.registry.promote(serving.model_id, proven=True)
    result = installation.train()
    assert (result.status, result.verdict, result.model_id) == ("failed", None, None)
    run = installation.db.runs.get("run-1")
    assert run.status == "failed"
    assert reason in run.error_message == result.reason
    assert installation.registry.get_active(ModelType.SIGNAL_QUALITY).model_id == serving.model_id


def small_worlds() -> dict[str, World]:
    world = null(150)
    future = world.known_us + np.where(np.arange(150) < 80, 20_000 * DAY_US, 0)
    return {
        "40 of 100 samples": cut(world, np.arange(40)),
        "99 of 100 samples": cut(world, np.arange(99)),
        "70 of 100 samples; left out: 80 outcome_in_the_future": replace(world, known_us=future),
        "50 of 100 samples; left out: 100 repeated": cut(world, np.arange(150) % 50),
    }


@pytest.mark.parametrize("words", small_worlds())
def test_with_too_few_samples_nothing_is_trained_and_the_run_is_held(tmp_path: Path, words: str) -> None:
    installation = learning_installation(tmp_path / "installation", small_worlds()[words])
    serving = fitted()
    installation.registry.register(serving)
    installation.registry.promote(serving.model_id, proven=True)
    ledger = installation.db.models.promotions()
    result = installation.train()
    assert (result.status, result.model_id, result.reason) == ("completed", None, words)
    assert result.verdict is not None
    assert result.verdict.decision is Decision.HOLD
    run = installation.db.runs.get("run-1")
    assert (run.status, run.verdict, run.model_id, run.error_message) == ("completed", "hold", None, None)
    assert (run.reason, run.samples_found) == (words, int(words.split()[0]))
    assert installation.db.models.promotions() == ledger
    assert [row.model_id for row in installation.db.models.history()] == [serving.model_id]
    assert installation.registry.get_active(ModelType.SIGNAL_QUALITY).model_id == serving.model_id


def test_a_run_that_found_too_few_samples_holds_nothing_that_a_newer_run_has_outdated(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", cut(null(150), np.arange(40)))

    def outdate(stage: str, done: int, total: int) -> None:
        installation.db.runs.start("newer", QUALITY, {}, label_watermark=0)

    assert installation.train(progress=outdate).reason.startswith("stale_activation")
    assert installation.db.runs.get("run-1").status == "failed"


def test_no_labels_and_rows_of_another_feature_version_are_too_few_samples(tmp_path: Path) -> None:
    assert learning_installation(tmp_path / "empty").train().reason == "0 of 100 samples"
    installation = learning_installation(tmp_path / "installation", null(150))
    assert installation.train(feature_version="another").reason == "0 of 100 samples"


def test_a_run_tells_the_words_of_its_verdict(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", null(150))
    result = installation.train()
    assert result.verdict is not None
    assert installation.db.runs.get("run-1").reason == result.verdict.reason
    assert installation.db.runs.get("run-1").samples_found is None


def test_features_that_no_vector_has_are_no_usable_features(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", null(150))
    assert installation.train(pipeline_names=["another", "and_one_more"]).reason.startswith("no_usable_features")


def test_of_two_feature_versions_one_is_trained_on(tmp_path: Path) -> None:
    world = null(400)
    mixed, pure = (
        learning_installation(tmp_path / "mixed", world),
        learning_installation(tmp_path / "pure", cut(world, np.arange(0, 400, 2))),
    )
    mixed.db.connection.run("UPDATE feature_vectors SET feature_version = 'bench-2' WHERE id % 2 = 0")
    one, other = mixed.train(), pure.train()
    assert (one.status, one.figures) == ("completed", other.figures)
    mixed.db.connection.run("UPDATE feature_vectors SET feature_version = 'bench-2' WHERE id % 8 <> 1")
    serving = mixed.db.models.active_id(QUALITY)
    assert mixed.train().reason.startswith("50 of 100 samples")
    assert mixed.db.models.active_id(QUALITY) == serving


def test_an_unknown_recipe_fails_the_run_by_name(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", null(150))
    with pytest.raises(ValueError, match="model_type"):
        quick(model_type="oracle")
    config = quick()
    config.training.model_type = "oracle"  # type: ignore[assignment]
    assert installation.train(config).reason.startswith("unknown_parameter")
    assert installation.train(quick(hyperparameters={"luck": 1})).reason.startswith("unknown_parameter")


def test_a_feature_that_is_only_missing_for_losers_is_the_label_too() -> None:
    data = dataset(null(300))
    data.X[~data.won, 2] = np.nan
    assert [name for name, _ in suspicious_features(data)] == ["x02"]
    with pytest.raises(LabelAmongFeatures, match="x02"):
        check_dataset(data, min_samples=100)


def test_a_strong_honest_feature_is_not_suspected() -> None:
    assert suspicious_features(dataset(strong())) == []


def test_a_full_disk_fails_the_run_by_name(proven: LearningInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = proven.db.models.active_id(QUALITY)
    monkeypatch.setattr(artefact.os, "fsync", full)
    result = proven.train()
    assert result.reason.startswith("disk_full")
    assert proven.db.runs.get("run-2").status == "failed"
    assert proven.db.models.active_id(QUALITY) == before


def test_an_unexpected_error_is_recorded_and_raised(proven: LearningInstallation) -> None:
    def trip(stage: str, done: int, total: int) -> None:
        raise RuntimeError("the stairs")

    with pytest.raises(RuntimeError, match="stairs"):
        proven.train(progress=trip)
    assert "the stairs" in proven.db.runs.get("run-2").error_message


def test_a_newer_run_fences_off_an_older_one(proven: LearningInstallation) -> None:
    before = proven.db.models.active_id(QUALITY)

    def overtaken(stage: str, done: int, total: int) -> None:
        if stage == "register":
            proven.db.runs.start("overtaker", QUALITY, {}, label_watermark=0)

    result = proven.train(progress=overtaken)
    assert result.reason.startswith("stale_activation")
    assert proven.db.models.active_id(QUALITY) == before


@pytest.mark.parametrize("how", ["overtaken", "given up"])
def test_a_training_that_is_not_the_newest_that_runs_changes_no_model_and_enters_no_verdict(
    proven: LearningInstallation, how: str
) -> None:
    """Also where its candidate would not serve anyway: the models beside it would, and the ledger tell of it."""
    proven.db.models.pin(proven.db.models.active_id(QUALITY), reason="it is trusted")

    def meanwhile(stage: str, done: int, total: int) -> None:
        if stage == "register":
            if how == "overtaken":
                proven.db.runs.start("overtaker", QUALITY, {}, label_watermark=0)
            else:
                proven.db.runs.finish("late", "failed", error_message="killed: swept")

    ledger, serving = proven.db.models.promotions(), proven.db.models.serving(QUALITY)
    result = proven.train(run_id="late", progress=meanwhile)
    assert result.reason.startswith("stale_activation")
    assert proven.db.models.promotions() == ledger
    assert [row for row in proven.db.models.serving(QUALITY) if not row.candidate] == list(serving)
    assert proven.db.runs.get("late").status == "failed"


def test_a_champion_changed_by_hand_meanwhile_is_not_overwritten(proven: LearningInstallation) -> None:
    other = fitted()
    proven.registry.register(other)
    result = proven.train(
        progress=lambda stage, done, total: stage == "register" and proven.registry.activate(other.model_id)
    )
    assert result.reason.startswith("stale_activation")
    assert proven.db.models.active_id(QUALITY) == other.model_id


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.learning_installation import learning_installation, VERSION, names, quick
def die(stage, done, total):
    if stage == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
learning_installation(Path(sys.argv[1]), columns=sys.argv[3].split(",")).train(run_id="killed", progress=die)
"""


@pytest.mark.parametrize("stage", ["folds", "register"])
def test_a_training_killed_half_way_leaves_the_champion_serving(proven: LearningInstallation, stage: str) -> None:
    before = proven.db.models.active_id(QUALITY)
    arguments = [str(proven.directory), stage, ",".join(proven.feature_names)]
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=root, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert proven.db.runs.get("killed").status == "running"
    assert proven.registry.get_active(ModelType.SIGNAL_QUALITY).model_id == before
    assert proven.db.runs.finish("killed", "failed", error_message="killed")
    assert proven.train().status == "completed"


def test_a_refresh_with_skill_takes_over_and_stays_proven(proven: LearningInstallation) -> None:
    result = proven.train()
    assert (result.verdict.rule, result.verdict.serve) == ("refresh", Serve.PROVEN)
    assert proven.db.models.active_id(QUALITY) == result.model_id


def served(installation: LearningInstallation, world: World, p: np.ndarray) -> None:
    """What the champion served of the whole world, as if it had been trained before all of it."""
    champion = installation.db.models.active_id(QUALITY)
    with installation.db.atomic():
        installation.db.connection.run("UPDATE model_registry SET train_end_date = '' WHERE model_id = ?", (champion,))
    installation.db.scores.log_predictions(
        [
            PredictionRow(f"s{i:06d}", champion, text_from_us(int(world.entered_us[i])), float(p[i]))
            for i in range(len(world.r))
        ]
    )


def test_the_champion_is_judged_by_what_it_served(proven: LearningInstallation) -> None:
    world = strong()
    right = (world.r > 0) ^ (np.random.default_rng(0).random(len(world.r)) < 0.05)
    served(proven, world, np.where(right, 0.9, 0.1))
    result = proven.train()
    assert (result.verdict.decision, result.verdict.serve) == (Decision.REJECT, Serve.NO)
    assert result.verdict.figures["champion_rows"] > 100
    [entry] = proven.db.models.promotions(1, QUALITY)
    assert (entry.action, entry.actor) == ("reject", "gate")


def test_a_champion_that_served_worse_than_the_base_rate_is_demoted_and_replaced(proven: LearningInstallation) -> None:
    world = strong()
    served(proven, world, np.where(world.r > 0, 0.3, 0.7))
    result = proven.train()
    assert result.verdict.rule == "skill"
    ledger = [(entry.action, entry.actor) for entry in proven.db.models.promotions(2, QUALITY)]
    assert ledger == [("activate", "gate"), ("demote", "gate")]


@pytest.mark.parametrize("ended", [True, False])
def test_months_that_were_good_prove_nothing_again_after_a_proof_that_ended(tmp_path: Path, ended: bool) -> None:
    """The edge dies 110 days before the training, and the champion is told of as harmful, or not at all."""
    world = strong()
    dead = world.entered_us > world.entered_us.max() - 110 * DAY_US
    r = np.where(dead, np.where(np.random.default_rng(4).random(len(dead)) < 0.45, 1.5, -1.0), world.r)
    installation = learning_installation(tmp_path, replace(world, r=r))
    model = fitted(0, clock=lambda: NOW)
    installation.registry.enter(model, recipe="another")
    if ended:
        installation.registry.promote(model.model_id, proven=True)
        served(installation, replace(world, r=r), np.where(r > 0, 0.3, 0.7))
    verdict = installation.train().verdict
    assert verdict.rule == "skill"
    assert verdict.decision is (Decision.REJECT if ended else Decision.PROMOTE)
    assert ("but the last proof ended" in verdict.reason) is ended


def test_nothing_fitted_in_a_fold_has_seen_the_rows_it_is_tested_on() -> None:
    """Poison everything that comes after a window began: what was fitted before must not move."""
    world = strong(500)
    config = quick(hyperparameters={"max_iter": 5})
    data = dataset(world)
    walk = backtest.splitter(data, config)
    fold = list(walk.split(data.entered_us, data.known_us))[4]
    poisoned_X, poisoned_r = world.X.copy(), world.r.copy()
    later = (world.entered_us >= fold.start_us) | (world.known_us >= fold.start_us)
    poisoned_X[later] *= -1e6
    poisoned_r[later] *= -1.0
    poisoned = dataset(World(poisoned_X, poisoned_r, world.truth, world.entered_us, world.known_us))
    digests = [
        backtest.fit_on(d, fold.train, config, max_hold_us=walk.max_hold_us, min_samples=50, clock=lambda: NOW).digest()
        for d in (data, poisoned)
    ]
    assert digests[0] == digests[1]


def test_the_settings_of_the_configuration_reach_the_model(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", null(150))
    config = quick(
        model_type="gradient_boosting", hyperparameters={"n_estimators": 8}, max_features=3, early_stopping=False
    )
    result = installation.train(config)
    model = installation.registry.load(result.model_id)
    assert (model.recipe, model.params["n_estimators"]) == ("gradient_boosting", 8)
    assert sum(share > 0 for share in model.get_metadata().feature_importance.values()) <= 3
    assert model.feature_version == VERSION
    assert list(model.feature_names) == names(null(5))


def test_while_a_model_is_pinned_trainings_go_on_in_the_shadow_and_say_so(proven: LearningInstallation) -> None:
    kept = proven.db.models.active_id(QUALITY)
    proven.db.models.pin(kept, actor="dana", reason="it is trusted")
    result = proven.train()
    assert (result.status, result.verdict.serve) == ("completed", Serve.NO)
    assert f"{kept} is pinned by dana" in result.reason
    assert proven.db.models.active_id(QUALITY) == kept
    run = proven.db.runs.get(result.run_id)
    assert (run.verdict, run.serves) == (result.verdict.decision, "no")
    assert [model.model_id for model in proven.db.models.serving(QUALITY) if model.candidate] == [result.model_id]
    proven.db.models.unpin(QUALITY, actor="dana", reason="enough")
    assert proven.train(run_id="run-3").verdict.serve is Serve.PROVEN


def test_a_look_at_the_same_outcomes_again_is_not_taken(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path / "installation", null(400, seed=1))
    first, again = installation.train(), installation.train()
    assert first.verdict.decision is Decision.REJECT
    assert again.verdict.decision is Decision.HOLD
    assert "no outcome has come since the gate last looked" in again.reason
    assert "looked_until_day" not in installation.db.runs.get(again.run_id).metrics


def test_a_champion_fitted_on_other_features_blocks_nothing(proven: LearningInstallation) -> None:
    before = proven.db.models.active_id(QUALITY)
    proven.db.connection.run("UPDATE feature_vectors SET feature_version = 'bench-2'")
    result = proven.train(feature_version="bench-2")
    assert result.verdict.rule == "skill"
    assert proven.db.models.active_id(QUALITY) == result.model_id != before
