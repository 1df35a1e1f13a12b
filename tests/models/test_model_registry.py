"""The registry: which models there are, which one serves, and that a promotion elsewhere is seen here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.learning_installation import LearningInstallation, fitted, learning_installation
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage.errors import StaleActivation

QUALITY = ModelType.SIGNAL_QUALITY


@pytest.fixture
def installation(tmp_path: Path) -> LearningInstallation:
    return learning_installation(tmp_path / "installation")


def registered(installation: LearningInstallation, **identity: object) -> SignalQualityModel:
    model = fitted()
    for name, value in identity.items():
        setattr(model, name, value)
    assert installation.registry.register(model)
    return model


def test_a_registered_model_comes_back_as_it_was(installation: LearningInstallation) -> None:
    model = registered(installation)
    assert installation.registry.load(model.model_id).digest() == model.digest()
    row = installation.db.models.get(model.model_id)
    assert (row.model_path, row.feature_version, row.recipe) == (f"{model.model_id}.skops", "bench-1", "ensemble")
    assert not row.is_active


def test_nothing_serves_until_something_is_activated(installation: LearningInstallation) -> None:
    model = registered(installation)
    assert installation.registry.get_active(QUALITY) is None
    assert installation.registry.activate(model.model_id)
    assert installation.registry.get_active(QUALITY).model_id == model.model_id


def test_a_promotion_by_another_process_is_seen(installation: LearningInstallation) -> None:
    first, second = registered(installation), registered(installation)
    installation.registry.activate(first.model_id)
    here = ModelRegistry(installation.registry.model_dir, installation.db)
    assert here.get_active(QUALITY).model_id == first.model_id
    installation.registry.activate(second.model_id)
    assert here.get_active(QUALITY).model_id == second.model_id
    assert installation.db.models.get(first.model_id).retired_at is not None
    installation.db.models.retire(second.model_id, reason="out of order")
    assert here.get_active(QUALITY) is None


def test_an_unfitted_or_unknown_model_is_turned_away(installation: LearningInstallation) -> None:
    assert installation.registry.register(SignalQualityModel()) is False
    assert installation.registry.activate("signal_quality_1.0_none") is False
    with pytest.raises(ModelFileRefused, match="no model"):
        installation.registry.load("signal_quality_1.0_none")


def test_the_type_of_a_model_is_not_guessed_from_its_id(installation: LearningInstallation) -> None:
    model = registered(installation, model_id="return_predictor_in_name_only")
    assert installation.registry.activate(model.model_id)
    assert installation.registry.get_active(QUALITY).model_id == model.model_id


def test_activation_on_a_stale_view_changes_nothing(installation: LearningInstallation) -> None:
    first, second = registered(installation), registered(installation)
    installation.registry.activate(first.model_id)
    with pytest.raises(StaleActivation):
        installation.registry.promote(second.model_id, expected_active=None)
    assert installation.registry.get_active(QUALITY).model_id == first.model_id


def test_comparison_puts_models_without_the_metric_last(installation: LearningInstallation) -> None:
    for auc in (0.4, None, 0.6):
        model = fitted()
        model.set_validation(50, {} if auc is None else {"auc": auc})
        installation.registry.register(model)
    compared = installation.registry.compare_models(QUALITY)
    assert [row["metric"] for row in compared] == [0.6, 0.4, None]


def test_a_registry_without_a_store_keeps_its_own_books(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    model = fitted()
    assert registry.register(model)
    assert registry.activate(model.model_id)
    assert registry.get_active(QUALITY).digest() == model.digest()
    assert [metadata.model_id for metadata in registry.get_model_history(QUALITY)] == [model.model_id]
