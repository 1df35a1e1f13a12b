"""When a proof ends: by age, by harm, and when skill does not show any more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import NOW, LearningInstallation, fitted, learning_installation
from trading_system.ml_refinement.config import TrainingConfig
from trading_system.ml_refinement.standing import read_standing
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.tables.scores import PredictionRow
from trading_system.ml_refinement.storage.times import us_from_text, utc_text
from trading_system.ml_refinement.training.champion_record import end_proof_if_failing
from trading_system.simulation.worlds import World, independent

NOW_US = us_from_text(utc_text(NOW))


@pytest.fixture(scope="module")
def world() -> World:
    return independent(1100, np.random.default_rng(5), kind="linear", auc=0.7)


def served(directory: Path, world: World, p: np.ndarray, *, proven: bool = True) -> LearningInstallation:
    """A proven champion, and the probabilities that it, or an unproven model of its recipe before it, served."""
    installation = learning_installation(directory, world)
    first, champion = fitted(0, clock=lambda: NOW), fitted(1, clock=lambda: NOW)
    for model in (first, champion):
        installation.registry.enter(model, recipe="ensemble")
    installation.registry.promote(champion.model_id, proven=True)
    by = champion.model_id if proven else first.model_id
    ids = [f"s{i:06d}" for i in range(len(world.r))]
    rows = [PredictionRow(name, by, utc_text(NOW), float(each)) for name, each in zip(ids, p, strict=True)]
    installation.db.scores.log_predictions(rows[-len(p) :])
    return installation


def ended(installation: LearningInstallation, *, days_later: float = 0.0, code: str | None = None) -> tuple[bool, str]:
    """Has the proof ended, for the reason of that code, and what the ledger says of it."""
    active = installation.db.models.active("signal_quality")
    assert isinstance(active, RegistryRow)
    later = NOW_US + int(timedelta(days=days_later).total_seconds() * 1e6)
    now = end_proof_if_failing(installation.db, active, training=TrainingConfig(), now_us=later)
    entry = installation.db.models.promotions(1)[0]
    assert (entry.action == "demote") is not now.proven
    standing = read_standing(installation.db.models, "signal_quality")
    assert standing is not None
    assert (standing.proven, standing.not_proven, standing.why) == (now.proven, code, entry.reason)
    return not now.proven, entry.reason


def test_a_proof_goes_on_while_what_was_served_shows_skill(tmp_path: Path, world: World) -> None:
    assert ended(served(tmp_path, world, world.truth)) == (False, "activated by hand")


@pytest.mark.parametrize("proven", [True, False])
def test_a_proof_ends_when_skill_does_not_show_any_more(tmp_path: Path, world: World, proven: bool) -> None:
    """Scores shrunk so far that their log loss would never have told; by models of the recipe, proven or not."""
    noise = 0.45 + 0.002 * np.random.default_rng(6).standard_normal(len(world.r))
    over, why = ended(served(tmp_path, world, noise, proven=proven), code="skill_not_shown")
    assert over
    assert "skill does not show in what was served of 252 days: AUC 0." in why


def test_a_proof_ends_when_the_newest_half_shows_next_to_nothing(tmp_path: Path, world: World) -> None:
    """Good months outweigh the rest, in the whole year and in its log loss, though the edge has been dead for long."""
    dead = world.entered_us > world.entered_us.max() - timedelta(days=130) / timedelta(microseconds=1)
    noise = 0.45 + 0.002 * np.random.default_rng(6).standard_normal(len(world.r))
    over, why = ended(served(tmp_path, world, np.where(dead, noise, world.truth)), code="skill_not_shown")
    assert over
    assert "skill does not show in what was served of 126 days: AUC 0." in why


def test_a_record_that_is_too_short_ends_nothing(tmp_path: Path, world: World) -> None:
    installation = served(tmp_path, World(*(a[-90:] for a in vars(world).values())), np.full(90, 0.45))
    assert not ended(installation)[0]


def test_a_proof_ends_with_the_models_age(tmp_path: Path, world: World) -> None:
    installation = served(tmp_path, world, world.truth)
    assert not ended(installation, days_later=125.0)[0]
    over, why = ended(installation, days_later=127.0, code="proof_expired")
    assert over
    assert "expired: trained 127 days ago, 126 are allowed" in why


def test_a_proof_ends_with_the_harm_that_was_served(tmp_path: Path, world: World) -> None:
    over, why = ended(served(tmp_path, world, 1.0 - world.truth), code="harm")
    assert over
    assert "base rate" in why
