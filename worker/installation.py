"""The parts of an installation that its settings name: its store, its features, its release.

Kept apart from the composition root, so that looking at a store does not load what learning needs.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from trading_system.ml_refinement.config_effects import EFFECTS, idle
from trading_system.ml_refinement.recipe_parameters import wrong_parameters
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase
from worker.errors import ConfigurationError
from worker.settings.messages import variable
from worker.settings.schema import Settings, is_given
from worker.state_dir import refuse_half_restored

if TYPE_CHECKING:
    from trading_system.ml_refinement.features.pipeline import FeaturePipeline


def release() -> str:
    """The installed version of this distribution."""
    return version("signal-refinery")


def open_store(settings: Settings, *, read_only: bool = False) -> FeatureDatabase:
    """The store of this installation, with its schema up to date unless it is only read.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    refuse_half_restored(settings)
    store = FeatureDatabase.from_config(settings.to_ml_config(), read_only=read_only)
    if not read_only:
        store.initialize()
    return store


def open_copy(path: Path) -> FeatureDatabase:
    """A copy of a store, as a backup holds one: only read, and as its schema is."""
    return FeatureDatabase(path, read_only=True)


def open_archive(settings: Settings, *, read_only: bool = False) -> EventArchive:
    """The archive of received events of this installation.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no archive, or a damaged one.
    """
    return EventArchive(settings.archive_path, read_only=read_only)


def check_recipe(settings: Settings) -> None:
    """Refuse hyperparameters that every training would fail with.

    Raises:
        ConfigurationError: the recipe does not know one, or cannot use its value.
    """
    training = settings.ml.training
    wrong = wrong_parameters(training.model_type, training.hyperparameters)
    if wrong:
        raise ConfigurationError(f"{variable(('ml', 'training', 'hyperparameters'))}: {wrong}")


def check_features(settings: Settings) -> None:
    """Refuse features that no process could compute; only names can be wrong, and without any no arrays are loaded.

    Raises:
        ConfigurationError: a name is of nothing, or is taken.
    """
    features = settings.ml.features
    if features.custom_features or features.provided:
        feature_pipeline(settings)


def idle_settings(settings: Settings) -> list[str]:
    """The settings of learning that were given a value and do nothing beside the others, each with where it would."""
    given = [name for name in EFFECTS if is_given("ml", *name.split("."))]
    return [
        f"{variable(('ml', *name.split('.')))} does nothing here; it acts: {acts}"
        for name, acts in idle(settings.ml, given).items()
    ]


def feature_pipeline(settings: Settings) -> FeaturePipeline:
    """The features that these settings choose.

    Raises:
        ConfigurationError: they choose one that does not exist, or none, or provide one that there is already.
    """
    # Here, because they load numpy, and whoever only opens a store does without.
    from trading_system.ml_refinement.features.feature_registry import TakenNameError, UnknownFeatureError
    from trading_system.ml_refinement.features.pipeline import FeaturePipeline

    try:
        return FeaturePipeline(settings.ml.features)
    except TakenNameError as error:
        raise ConfigurationError(f"{variable(('ml', 'features', 'provided'))}: {error}") from error
    except (ValueError, UnknownFeatureError) as error:
        raise ConfigurationError(f"the features cannot be computed: {error}") from error
