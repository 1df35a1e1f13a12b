"""Virtual outcomes in a training: they fill in, reported ones win, and the gate looks at reported ones alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.labels import replaced_by_virtual
from tests.support.learning_installation import (
    NOW,
    VERSION,
    LearningInstallation,
    dataset,
    learning_installation,
    narrow,
    quick,
)
from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.evaluation.importance import fold_importance
from trading_system.ml_refinement.labelling.rules import LabellingRule, labelling_rule
from trading_system.ml_refinement.models.errors import BadData
from trading_system.ml_refinement.storage import OutcomeRow
from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomeRow
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us
from trading_system.ml_refinement.training.backtest import fit_on
from trading_system.ml_refinement.training.dataset import Dataset, read_dataset
from trading_system.ml_refinement.training.promotion import Decision
from trading_system.ml_refinement.training.recipes import config_of
from trading_system.ml_refinement.validation.walk_forward import Fold
from trading_system.simulation.worlds import independent

ROWS = 420
OFF = replace(quick(step_size_days=63), virtual_hold_days=10.0)
FILL = replace(OFF, virtual_outcomes="fill")
NOW_US = int(NOW.timestamp() * 1e6)
Make = Callable[[str], LearningInstallation]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Installations with the same world: labels that can be learned."""
    made: list[LearningInstallation] = []

    def one(name: str) -> LearningInstallation:
        world = narrow(independent(ROWS, np.random.default_rng(5), kind="linear", auc=0.75, per_day=2.0), 8)
        made.append(learning_installation(tmp_path / name, world))
        return made[-1]

    yield one
    for each in made:
        each.db.close()


def rows(installation: LearningInstallation, config: MLConfig = FILL, now_us: int = NOW_US) -> Dataset:
    rule = labelling_rule(installation.db, config) if config.virtual_outcomes == "fill" else None
    return read_dataset(
        installation.db,
        names=installation.feature_names,
        feature_version=VERSION,
        now_us=now_us,
        virtual=rule,
    )


def test_with_off_nothing_changes_to_the_bit(make: Make) -> None:
    plain, beside = make("plain"), make("beside")
    rule = labelling_rule(beside.db, OFF)
    version = rule.version("breakout", "equity")
    ids = [f"s{i:06d}" for i in range(0, ROWS, 2)]
    data = rows(plain, OFF)
    known = [text_from_us(int(us)) for us in data.known_us[::2]]
    beside.db.virtual_outcomes.put(
        [VirtualOutcomeRow(one, -9.0, "stop", at, version) for one, at in zip(ids, known, strict=True)]
    )
    assert rows(beside, OFF).digest() == data.digest()
    results = [one.train(OFF) for one in (plain, beside)]
    assert results[0].figures == results[1].figures
    assert results[0].figures["model_digest"]
    assert not [name for name in results[0].figures if "virtual" in name]


def test_virtual_outcomes_fill_in_where_none_was_reported(make: Make) -> None:
    whole, part = make("whole"), make("part")
    gone = replaced_by_virtual(part.db, 150, FILL, newest=False)
    assert len(rows(part, OFF).r) == ROWS - 150
    filled, all_of_it = rows(part), rows(whole, OFF)
    assert filled.signal_ids[~filled.reported].tolist() == sorted(gone)
    for name in ("X", "r", "entered_us", "known_us", "signal_ids"):
        np.testing.assert_array_equal(getattr(filled, name), getattr(all_of_it, name))
    assert filled.left_out["virtual_in_the_future"] == 0
    assert filled.digest() != all_of_it.digest()


def test_a_reported_outcome_wins_also_when_it_comes_later(make: Make) -> None:
    desk = make("desk")
    before = rows(desk, OFF)
    gone = replaced_by_virtual(desk.db, 50, FILL)
    assert rows(desk).virtual.sum() == 50
    told = dict(zip(before.signal_ids.tolist(), zip(before.r, before.known_us, strict=True), strict=True))
    desk.db.outcomes.record([OutcomeRow(one, 0, text_from_us(int(told[one][1])), float(told[one][0])) for one in gone])
    desk.db.virtual_outcomes.put(
        [VirtualOutcomeRow(one, -7.0, "stop", text_from_us(int(told[one][1])), "other") for one in gone]
    )
    after = rows(desk)
    assert not after.virtual.any()
    np.testing.assert_array_equal(after.r, before.r)


def test_what_is_of_another_rule_or_has_no_r_or_is_of_the_future_is_no_row(make: Make) -> None:
    desk = make("desk")
    gone = replaced_by_virtual(desk.db, 60, FILL)
    assert len(rows(desk, replace(FILL, virtual_hold_days=20.0)).r) == ROWS - 60
    version = labelling_rule(desk.db, FILL).version("breakout", "equity")
    desk.db.virtual_outcomes.put([VirtualOutcomeRow(gone[0], None, "not_filled", None, version)], again=True)
    desk.db.virtual_outcomes.put(
        [VirtualOutcomeRow(gone[1], 1.0, "time", text_from_us(NOW_US + DAY_US), version)], again=True
    )
    found = rows(desk)
    assert found.virtual.sum() == 58
    assert found.left_out["virtual_in_the_future"] == 1


def test_a_signal_told_twice_counts_once_and_as_it_was_reported(make: Make) -> None:
    desk = make("desk")
    twin = desk.db.signals.get("s000010")
    row = desk.db.connection.query(
        "SELECT timestamp, symbol, asset_class, signal_type, feature_version, list_id, packed, features "
        "FROM feature_vectors WHERE signal_id = 's000010'"
    )[0]
    desk.db.connection.run(
        "INSERT INTO feature_vectors (signal_id, timestamp, symbol, asset_class, signal_type, feature_version, "
        "list_id, packed, features, created_at, complete) VALUES ('twin', ?, ?, ?, ?, ?, ?, ?, ?, '', 1)",
        row,
    )
    assert twin is not None
    version = labelling_rule(desk.db, FILL).version("breakout", "equity")
    desk.db.virtual_outcomes.put([VirtualOutcomeRow("twin", 5.0, "target", text_from_us(NOW_US), version)])
    found = rows(desk)
    assert "twin" not in found.signal_ids
    assert found.left_out["virtual_repeated"] == 1


def test_the_run_says_how_many_of_which_and_judges_by_reported_ones_alone(make: Make) -> None:
    desk = make("desk")
    replaced_by_virtual(desk.db, 200, FILL)
    result = desk.train(FILL)
    figures = result.figures
    assert (figures["reported_samples"], figures["virtual_samples"]) == (ROWS - 200, 200)
    assert 0 < figures["rows"] < figures["with_virtual_rows"]
    assert {"with_virtual_auc", "with_virtual_auc_low", "with_virtual_auc_within_weeks"} <= figures.keys()
    stored = desk.db.runs.get(result.run_id)
    assert stored is not None
    assert stored.metrics["virtual_samples"] == 200
    assert stored.validation_samples == figures["rows"]
    assert config_of(stored) == FILL


def test_virtual_outcomes_alone_prove_nothing_and_serve_nothing(make: Make) -> None:
    """All of the evidence is virtual: a perfect oracle of it would not serve."""
    desk = make("desk")
    replaced_by_virtual(desk.db, ROWS - 60, FILL)
    result = desk.train(FILL)
    assert result.verdict is not None
    assert result.verdict.decision is Decision.HOLD
    assert result.verdict.serve.value == "no"
    assert result.figures["with_virtual_rows"] > 200
    desk.db.close()


def test_lies_among_virtual_outcomes_do_not_enter_the_gates_base_rate(make: Make) -> None:
    """Every virtual trade won: beside that base rate of the training rows, everything would look wise about losses."""
    desk = make("desk")
    gone = replaced_by_virtual(desk.db, 200, FILL, every=2)
    version = labelling_rule(desk.db, FILL).version("breakout", "equity")
    known = desk.db.connection.query("SELECT signal_id, known_at FROM virtual_outcomes")
    desk.db.virtual_outcomes.put([VirtualOutcomeRow(one, 2.0, "target", at, version) for one, at in known], again=True)
    figures = desk.train(FILL).figures
    rate = float(rows(desk, OFF).won.mean())
    fair = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert len(gone) == 200
    assert figures["base_rate_log_loss"] == pytest.approx(fair, abs=0.03)
    assert float(rows(desk).won.mean()) > rate + 0.15


def test_learning_from_virtual_outcomes_is_another_recipe(make: Make) -> None:
    desk = make("desk")
    recipes = []
    for config in (OFF, FILL, replace(FILL, virtual_hold_days=20.0)):
        model_id = desk.train(config).model_id
        assert model_id is not None
        row = desk.db.models.get(model_id)
        assert row is not None
        recipes.append(row.recipe)
    assert len(set(recipes)) == 3


def test_a_training_labels_before_it_reads(make: Make) -> None:
    desk = make("desk")
    asked: list[tuple[LabellingRule, str]] = []

    def label(rule: LabellingRule, since: str) -> None:
        asked.append((rule, since))
        replaced_by_virtual(desk.db, 40, FILL)

    assert desk.train(FILL, label=label).figures["virtual_samples"] == 40
    assert desk.train(OFF, label=label).figures.get("virtual_samples") is None
    assert [rule.other_hold_days for rule, _ in asked] == [10.0]


def test_purging_goes_by_when_the_virtual_outcome_was_known(make: Make) -> None:
    desk = make("desk")
    replaced_by_virtual(desk.db, 200, FILL)
    data = rows(desk)
    late = data.known_us[data.virtual] + 40 * DAY_US
    version = labelling_rule(desk.db, FILL).version("breakout", "equity")
    changed = [
        VirtualOutcomeRow(str(one), 1.0, "time", text_from_us(int(us)), version)
        for one, us in zip(data.signal_ids[data.virtual], late, strict=True)
    ]
    desk.db.virtual_outcomes.put(changed, again=True)
    np.testing.assert_array_equal(rows(desk).known_us[data.virtual], late)
    early = [row._replace(known_at=text_from_us(0)) for row in changed]
    desk.db.virtual_outcomes.put(early, again=True)
    result = desk.train(FILL)
    assert (result.status, result.reason.split(":")[0]) == ("failed", BadData.reason)


def test_a_feature_s_importance_is_measured_on_reported_outcomes() -> None:
    world = narrow(independent(ROWS, np.random.default_rng(5), kind="linear", auc=0.75, per_day=2.0), 8)
    virtual = np.arange(ROWS) % 3 == 0
    data = replace(dataset(world), virtual=virtual)
    fold = Fold(np.arange(300), np.arange(300, ROWS), int(world.entered_us[300]), int(world.entered_us[-1]) + 1)
    model = fit_on(data, fold.train, OFF, max_hold_us=DAY_US, min_samples=50, clock=lambda: NOW)
    told = fold_importance(data, [(fold, model)], block_us=10 * DAY_US)
    otherwise = replace(data, r=np.where(virtual, -data.r, data.r))
    assert told == fold_importance(otherwise, [(fold, model)], block_us=10 * DAY_US)
    assert told != fold_importance(replace(otherwise, virtual=None), [(fold, model)], block_us=10 * DAY_US)
