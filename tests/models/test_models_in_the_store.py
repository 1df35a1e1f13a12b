"""A host that has the store needs no other host's model files; those of older releases are taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_own_models import OwnRegistry, fitted as own_model
from tests.support.learning_installation import LearningInstallation, fitted, learning_installation
from tests.support.models_in_files import only_in_files
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage import ConstraintRefused, FeatureDatabase


@pytest.fixture
def installation(tmp_path: Path) -> LearningInstallation:
    return learning_installation(tmp_path / "installation")


def kept(db: FeatureDatabase) -> list[tuple[str, int]]:
    return db.connection.query("SELECT sha256, size FROM artefacts")


def spoil(db: FeatureDatabase) -> None:
    db.connection.run("UPDATE artefacts SET data = ?", (b"not a model",))


def test_another_host_serves_a_model_of_which_it_has_no_file(
    installation: LearningInstallation, tmp_path: Path
) -> None:
    model = fitted()
    installation.registry.enter(model)
    installation.registry.promote(model.model_id)
    with FeatureDatabase(installation.directory / "features.db") as elsewhere:
        served = ModelRegistry(tmp_path / "other host", elsewhere).serving(ModelType.SIGNAL_QUALITY)
    assert served is not None
    assert served.model_id == model.model_id
    assert list((tmp_path / "other host").iterdir()) == []
    [(sha256, size)] = kept(installation.db)
    path = installation.registry.model_dir / f"{model.model_id}.skops"
    assert (sha256, size) == (installation.db.models.get(model.model_id).artefact_sha256, path.stat().st_size)


def test_a_class_of_ones_own_is_given_its_file_on_a_host_without_it(
    installation: LearningInstallation, tmp_path: Path
) -> None:
    model = own_model()
    assert OwnRegistry(str(tmp_path / "here"), installation.db).register(model)
    elsewhere = OwnRegistry(str(tmp_path / "there"), installation.db)
    assert elsewhere.load(model.model_id).model_id == model.model_id
    (written,) = (tmp_path / "there").iterdir()
    written.write_bytes(b"something else")
    assert elsewhere.load(model.model_id).model_id == model.model_id


def test_files_of_an_older_release_are_taken_over_and_altered_ones_are_not(installation: LearningInstallation) -> None:
    models = [fitted(seed) for seed in range(3)]
    for model in models:
        installation.registry.enter(model)
    before = sorted(kept(installation.db))
    only_in_files(installation.db)
    path = installation.registry.model_dir / f"{models[2].model_id}.skops"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert installation.registry.take_over() == 2
    assert installation.registry.take_over() == 0
    with pytest.raises(ModelFileRefused, match="SHA-256"):
        installation.registry.load(models[2].model_id)
    path.write_bytes(data)
    installation.registry.load(models[2].model_id)
    assert sorted(kept(installation.db)) == before


def test_who_only_reads_the_store_loads_from_the_file_and_enters_nothing(installation: LearningInstallation) -> None:
    model = fitted()
    installation.registry.enter(model)
    only_in_files(installation.db)
    reading = FeatureDatabase(installation.directory / "features.db", read_only=True)
    assert ModelRegistry(installation.registry.model_dir, reading).load(model.model_id).model_id == model.model_id
    assert kept(installation.db) == []
    reading.close()


def test_what_the_store_keeps_is_verified_and_healed_from_the_file(installation: LearningInstallation) -> None:
    model = fitted()
    installation.registry.enter(model)
    spoil(installation.db)
    installation.registry.load(model.model_id)
    assert installation.db.artefacts.sound(installation.db.models.get(model.model_id).artefact_sha256)
    spoil(installation.db)
    (installation.registry.model_dir / f"{model.model_id}.skops").unlink()
    with pytest.raises(ModelFileRefused, match="the store keeps of it was altered"):
        installation.registry.load(model.model_id)


def test_the_bytes_are_entered_with_the_row_or_not_at_all(installation: LearningInstallation) -> None:
    model = fitted()
    installation.registry.enter(model)
    changed = fitted(1)
    changed.model_id = model.model_id
    with pytest.raises(ConstraintRefused):
        installation.registry.enter(changed)
    with pytest.raises(ValueError, match="not those of the hash"):
        installation.db.models.register(fitted(2).get_metadata(), artefact_sha256="0" * 64, data=b"other")
    assert len(kept(installation.db)) == 1
    assert len(installation.db.models.history()) == 1
