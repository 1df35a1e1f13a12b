"""Task 4.1.1: the module, its configuration, and the two records that everything passes on."""

from __future__ import annotations

import dataclasses
import importlib
import json
from importlib import resources
from typing import Any

import pytest

from tests.acceptance.test_interfaces import DATACLASSES
from trading_system.ml_refinement import (
    FeatureConfig,
    FeatureSet,
    FeatureVector,
    MLConfig,
    ModelMetadata,
    ModelType,
    TrainingConfig,
)

PACKAGE = "trading_system.ml_refinement"
MODULES = (
    "config",
    "features",
    "features.feature_store",
    "features.feature_registry",
    "features.pipeline",
    "features.extractors",
    "features.extractors.base_extractor",
    "features.extractors.technical_features",
    "features.extractors.market_features",
    "features.extractors.signal_features",
    "features.extractors.news_features",
    "models",
    "models.base_model",
    "models.model_registry",
    "validation",
    "validation.walk_forward",
    "validation.metrics",
    "storage",
    "storage.feature_db",
)
#: What each package offers by its own name.
EXPORTS = {
    PACKAGE: (
        "FeatureConfig",
        "FeatureSet",
        "FeatureVector",
        "MLConfig",
        "ModelMetadata",
        "ModelType",
        "TrainingConfig",
    ),
    f"{PACKAGE}.storage": ("FeatureDatabase",),
    f"{PACKAGE}.features": ("FeaturePipeline", "FeatureRegistry", "FeatureScaler"),
    f"{PACKAGE}.features.extractors": (
        "BaseFeatureExtractor",
        "OHLCVExtractor",
        "TrendFeatures",
        "MomentumFeatures",
        "VolatilityFeatures",
        "MarketRegimeFeatures",
        "SignalMetadataFeatures",
    ),
    f"{PACKAGE}.models": ("BaseModel", "SignalQualityModel", "ModelRegistry"),
}
#: Every field of the three configurations in its order, with its default; `model_type` by C29.
DEFAULTS = {kind: DATACLASSES[kind] for kind in (FeatureConfig, TrainingConfig, MLConfig)}
FIELDS = [(kind, name) for kind, fields in DEFAULTS.items() for name in fields]


def ids(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


# -- All directories and files created ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_the_specification_is_there_with_a_docstring(name: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    assert module.__doc__
    assert module.__doc__.strip()


def test_the_first_migration_is_a_file_of_that_name() -> None:
    sql = resources.files(f"{PACKAGE}.storage") / "migrations" / "001_feature_schema.sql"
    assert "CREATE TABLE" in sql.read_text()


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in EXPORTS.items() for name in names])
def test_every_exported_name_can_be_imported_from_its_package(package: str, name: str) -> None:
    module = importlib.import_module(package)
    assert isinstance(getattr(module, name), type)
    assert name in module.__all__


@pytest.mark.parametrize("package", EXPORTS)
def test_a_star_import_brings_every_name_of_the_package(package: str) -> None:
    there: dict[str, Any] = {}
    exec(f"from {package} import *", there)  # noqa: S102  what a notebook does
    assert set(EXPORTS[package]) <= there.keys()


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("config", EXPORTS[PACKAGE]),
        ("storage.feature_db", ("FeatureDatabase",)),
        ("features.extractors.base_extractor", ("BaseFeatureExtractor", "OHLCVExtractor")),
        ("features.extractors.technical_features", ("TrendFeatures", "MomentumFeatures", "VolatilityFeatures")),
        ("features.extractors.market_features", ("MarketRegimeFeatures",)),
        ("features.extractors.signal_features", ("SignalMetadataFeatures",)),
        ("features.feature_registry", ("FeatureRegistry",)),
        ("features.pipeline", ("FeaturePipeline", "FeatureScaler")),
        ("models.base_model", ("BaseModel", "SignalQualityModel")),
        ("models.model_registry", ("ModelRegistry",)),
    ],
)
def test_a_name_is_also_found_in_the_module_that_the_specification_puts_it_in(
    module: str, names: tuple[str, ...]
) -> None:
    found = importlib.import_module(f"{PACKAGE}.{module}")
    assert [name for name in names if not isinstance(getattr(found, name, None), type)] == []


# -- Config dataclasses properly defined ----------------------------------------------------------------------------


def test_the_types_of_models_are_words() -> None:
    assert {kind.name: kind.value for kind in ModelType} == {
        "SIGNAL_QUALITY": "signal_quality",
        "RETURN_PREDICTOR": "return_predictor",
        "REGIME_CLASSIFIER": "regime_classifier",
        "RISK_PREDICTOR": "risk_predictor",
    }
    assert ModelType("risk_predictor") is ModelType.RISK_PREDICTOR
    assert ModelType.SIGNAL_QUALITY == "signal_quality"
    assert json.dumps({"type": ModelType.SIGNAL_QUALITY}) == '{"type": "signal_quality"}'


def test_the_feature_sets_are_words() -> None:
    assert [(kind.name, kind.value) for kind in FeatureSet] == [
        ("MINIMAL", "minimal"),
        ("STANDARD", "standard"),
        ("EXTENDED", "extended"),
        ("CUSTOM", "custom"),
    ]
    assert FeatureSet.CUSTOM == "custom"


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=ids)
def test_every_field_has_its_default(kind: type, name: str) -> None:
    assert getattr(kind(), name) == DEFAULTS[kind][name]


@pytest.mark.parametrize("kind", DEFAULTS, ids=ids)
def test_the_fields_of_a_configuration_come_in_the_order_of_the_specification(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    named = [field.name for field in dataclasses.fields(kind)]
    assert [name for name in named if name in DEFAULTS[kind]] == list(DEFAULTS[kind])


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=ids)
def test_every_field_can_be_given_by_name(kind: type, name: str) -> None:
    other: dict[type, Any] = {bool: False, int: 33, float: 0.42, str: "minmax", list: [], dict: {}}
    default = DEFAULTS[kind][name]
    chosen = {
        "feature_set": FeatureSet.EXTENDED,
        "custom_features": ["trend_features"],
        "technical_lookbacks": [3, 9],
        "model_type": "gradient_boosting",
        "hyperparameters": {"max_depth": 2},
        "features": FeatureConfig(feature_set=FeatureSet.MINIMAL),
        "training": TrainingConfig(min_training_samples=33),
        "model_dir": "elsewhere/",
        "feature_db_path": "elsewhere.db",
    }.get(name, other.get(type(default)))
    config = kind(**{name: chosen})
    assert getattr(config, name) == chosen
    assert getattr(config, name) != default


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in FIELDS if isinstance(DEFAULTS[kind][name], list | dict)], ids=ids
)
def test_what_holds_several_values_is_a_list_or_a_dict_of_its_own(kind: type, name: str) -> None:
    one, other = getattr(kind(), name), getattr(kind(), name)
    assert type(one) is type(DEFAULTS[kind][name])
    assert one is not other


def test_a_configuration_can_be_changed_in_a_notebook() -> None:
    config = MLConfig()
    config.training.min_training_samples = 50
    config.features.technical_lookbacks = [5, 10]
    config.enabled = False
    assert (config.training.min_training_samples, config.features.technical_lookbacks) == (50, [5, 10])
    assert not config.enabled
    assert MLConfig().training.min_training_samples == 100


def test_a_configuration_as_a_dict_says_every_field() -> None:
    told = dataclasses.asdict(MLConfig())
    assert told["training"]["min_validation_samples"] == 20
    assert told["features"]["technical_lookbacks"] == [5, 10, 20, 50, 200]


# -- FeatureVector serialization works ------------------------------------------------------------------------------


def test_feature_vector_roundtrip() -> None:
    told = FeatureVector("test-123", "2024-01-01T10:00:00", {"rsi": 65.0, "atr_ratio": 1.2}, 2.0, 1)
    assert FeatureVector.from_dict(told.to_dict()) == told
    assert told.to_dict()["features"]["rsi"] == 65.0


def test_ml_config_defaults() -> None:
    assert MLConfig().enabled is True
    assert MLConfig().training == TrainingConfig(min_training_samples=100)


def test_a_vector_as_a_dict_has_the_five_fields_and_survives_json() -> None:
    fv = FeatureVector("test-123", "2024-01-01T10:00:00", {"rsi": 65.0}, -1.0, 0)
    data = fv.to_dict()
    assert data == {
        "signal_id": "test-123",
        "timestamp": "2024-01-01T10:00:00",
        "features": {"rsi": 65.0},
        "target": -1.0,
        "target_binary": 0,
    }
    assert FeatureVector.from_dict(json.loads(json.dumps(data))) == fv


def test_a_vector_without_an_outcome_has_no_target_and_needs_none_to_be_restored() -> None:
    fv = FeatureVector("test-123", "2024-01-01T10:00:00", {})
    assert (fv.target, fv.target_binary) == (None, None)
    restored = FeatureVector.from_dict({"signal_id": "a", "timestamp": "2024-01-01T10:00:00", "features": {"rsi": 1.0}})
    assert (restored.target, restored.target_binary) == (None, None)


@pytest.mark.parametrize("missing", ["signal_id", "timestamp", "features"])
def test_a_dict_that_lacks_what_a_vector_needs_is_refused(missing: str) -> None:
    data = FeatureVector("a", "2024-01-01T10:00:00", {}).to_dict()
    del data[missing]
    with pytest.raises(KeyError, match=missing):
        FeatureVector.from_dict(data)


def test_a_vector_takes_its_outcome_later() -> None:
    fv = FeatureVector("a", "2024-01-01T10:00:00", {"rsi": 1.0})
    fv.target = 1.5
    fv.target_binary = 1
    assert fv.to_dict()["target"] == 1.5


def test_metadata_of_a_model_needs_its_eight_facts_and_starts_inactive() -> None:
    metadata = ModelMetadata(
        "m-1", ModelType.SIGNAL_QUALITY, "1.0", "2024-06-01T00:00:00", "2024-01-01", "2024-05-31", 180, 40
    )
    assert (metadata.train_samples, metadata.validation_samples) == (180, 40)
    assert (metadata.train_metrics, metadata.validation_metrics) == ({}, {})
    assert (metadata.feature_names, metadata.feature_importance) == ([], {})
    assert metadata.is_active is False
    assert metadata.deployed_at is None
    assert isinstance(metadata.feature_names, list)
    with pytest.raises(TypeError):
        ModelMetadata("m-1", ModelType.SIGNAL_QUALITY)  # type: ignore[call-arg]
