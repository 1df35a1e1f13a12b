"""Model files: what is altered, hostile, too large or not ours is refused before it can do anything."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io

from tests.support.learning_installation import LearningInstallation, fitted, learning_installation
from tests.support.models_in_files import only_in_files
from trading_system.ml_refinement.models import SignalQualityModel, artefact
from trading_system.ml_refinement.models.errors import ModelFileRefused


class Hostile:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def installation(tmp_path: Path) -> LearningInstallation:
    return learning_installation(tmp_path / "installation")


def registered(installation: LearningInstallation) -> tuple[SignalQualityModel, Path]:
    model = fitted()
    assert installation.registry.register(model)
    return model, installation.registry.model_dir / f"{model.model_id}.skops"


def altered(model: SignalQualityModel, change: object) -> bytes:
    """The model's file with its state changed and everything else in order."""
    state = artefact.decode(model.to_bytes())
    change(state)
    return artefact.encode(state)


def test_a_file_whose_bytes_changed_is_refused_and_what_serves_goes_on_serving(
    installation: LearningInstallation,
) -> None:
    model, _ = registered(installation)
    installation.registry.activate(model.model_id)
    other, other_path = registered(installation)
    data = bytearray(other_path.read_bytes())
    data[len(data) // 2] ^= 1
    other_path.write_bytes(bytes(data))
    only_in_files(installation.db)
    with pytest.raises(ModelFileRefused, match="SHA-256"):
        installation.registry.promote(other.model_id)
    assert installation.registry.activate(other.model_id) is False
    assert installation.db.models.active_id("signal_quality") == model.model_id


def test_a_valid_file_of_another_model_does_not_pass_for_this_one(installation: LearningInstallation) -> None:
    first, first_path = registered(installation)
    _, second_path = registered(installation)
    first_path.write_bytes(second_path.read_bytes())
    only_in_files(installation.db)
    with pytest.raises(ModelFileRefused, match="SHA-256"):
        installation.registry.load(first.model_id)


@pytest.mark.parametrize("other", ["a valid model", "no model file"])
def test_whoever_says_what_a_file_hashes_to_reads_no_other_bytes(tmp_path: Path, other: str) -> None:
    data = fitted(1).to_bytes()
    (tmp_path / "model.skops").write_bytes(fitted(2).to_bytes() if other == "a valid model" else b"junk")
    sha256 = hashlib.sha256(data).hexdigest()
    model = SignalQualityModel()
    with pytest.raises(ModelFileRefused, match="SHA-256"):
        model.from_bytes((tmp_path / "model.skops").read_bytes(), sha256=sha256)
    assert model.load(str(tmp_path / "model.skops"), sha256=sha256) is False
    assert not model.is_fitted
    model.from_bytes(data, sha256=sha256)
    assert model.is_fitted


@pytest.mark.parametrize("write", [pickle.dump, joblib.dump])
def test_a_hostile_pickle_is_refused_and_executes_nothing(tmp_path: Path, write: object) -> None:
    mark = tmp_path / "executed"
    with open(tmp_path / "model.skops", "wb") as file:
        write({"model": Hostile(mark)}, file)
    assert SignalQualityModel().load(str(tmp_path / "model.skops")) is False
    assert not mark.exists()


def test_a_type_outside_the_frozen_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(skops.io.dumps({"format": 1, "learned": LearningInstallation}))
    with pytest.raises(ModelFileRefused, match="UntrustedTypesFound"):
        SignalQualityModel().from_bytes(path.read_bytes())
    assert SignalQualityModel().load(str(path)) is False


def test_an_archive_that_says_it_inflates_beyond_the_limit_is_refused() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * (artefact.MAX_INFLATED_BYTES + 1))
    assert len(data.getvalue()) < 1_000_000
    with pytest.raises(ModelFileRefused, match="inflating"):
        artefact.decode(data.getvalue())


def test_an_archive_that_lies_about_its_size_is_refused() -> None:
    data = io.BytesIO(skops.io.dumps({"format": 1}))
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("never read", b"0" * 5_000_000)
    lying = data.getvalue().replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    with pytest.raises(ModelFileRefused):
        artefact.decode(lying)


def test_an_archive_of_very_many_entries_is_refused() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(artefact.MAX_ENTRIES + 1):
            archive.writestr(str(number), b"")
    with pytest.raises(ModelFileRefused, match="entries"):
        artefact.decode(data.getvalue())


def test_a_pipe_is_no_regular_file_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.skops")
    with pytest.raises(ModelFileRefused, match="not a regular file"):
        artefact.read_file(tmp_path / "model.skops")


def test_a_file_of_one_model_does_not_pass_for_another(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    first, second = fitted(0), fitted(1)
    paths = []
    for model in (first, second):
        installation.registry.enter(model)
        paths.append(installation.registry.model_dir / f"{model.model_id}.skops")
    paths[0].write_bytes(paths[1].read_bytes())
    sha256 = hashlib.sha256(paths[1].read_bytes()).hexdigest()
    with installation.db.transaction() as connection:
        connection.execute("UPDATE model_registry SET artefact_sha256 = ? WHERE model_id = ?", (sha256, first.model_id))
    with pytest.raises(ModelFileRefused, match=f"{first.model_id}: the file holds {second.model_id}"):
        installation.registry.load(first.model_id)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    with open(path, "wb") as file:
        file.truncate(artefact.MAX_FILE_BYTES + 1)
    with pytest.raises(ModelFileRefused, match="regular file"):
        artefact.read_file(path)


def test_a_tree_that_points_outside_its_forest_is_refused() -> None:
    def outside(state: dict) -> None:
        state["learned"]["classifier"]["estimator"]["forest"]["left"][0] = 10**9

    def backwards(state: dict) -> None:
        state["learned"]["classifier"]["estimator"]["forest"]["feature"][0] = -7

    def no_such_column(state: dict) -> None:
        state["learned"]["classifier"]["columns"][-1] = 600

    def not_finite(state: dict) -> None:
        state["learned"]["classifier"]["estimator"]["forest"]["value"][:] = np.nan

    for change in (outside, backwards, no_such_column, not_finite):
        with pytest.raises(ModelFileRefused):
            SignalQualityModel().from_bytes(altered(fitted(), change))


def test_a_model_that_answers_otherwise_than_when_it_was_written_is_refused() -> None:
    def moved(state: dict) -> None:
        state["learned"]["classifier"]["estimator"]["linear"]["constant"] += 0.5

    with pytest.raises(ModelFileRefused, match="does not answer"):
        SignalQualityModel().from_bytes(altered(fitted(), moved))


def test_a_file_of_other_library_versions_is_refused() -> None:
    def older(state: dict) -> None:
        state["libraries"]["scikit-learn"] = "1.2.0"

    with pytest.raises(ModelFileRefused, match=r"scikit-learn 1\.2\.0"):
        SignalQualityModel().from_bytes(altered(fitted(), older))


@pytest.mark.parametrize("missing", ["learned", "golden", "features", "format"])
def test_a_file_with_a_part_missing_is_refused_and_the_model_stays_as_it_was(missing: str) -> None:
    model = fitted()
    before = model.digest()
    with pytest.raises(ModelFileRefused):
        model.from_bytes(altered(fitted(seed=1), lambda state: state.pop(missing)))
    assert model.digest() == before


def test_a_link_is_not_followed(installation: LearningInstallation, tmp_path: Path) -> None:
    model, path = registered(installation)
    path.rename(tmp_path / "elsewhere.skops")
    path.symlink_to(tmp_path / "elsewhere.skops")
    only_in_files(installation.db)
    with pytest.raises(ModelFileRefused):
        installation.registry.load(model.model_id)


@pytest.mark.parametrize("model_id", ["../outside", "/etc/model", "a/b", "..", "", "model\n", "x" * 200, ".hidden"])
def test_an_id_that_is_no_file_name_never_becomes_a_path(installation: LearningInstallation, model_id: str) -> None:
    model = fitted()
    model.model_id = model_id
    with pytest.raises(ModelFileRefused):
        installation.registry.enter(model)
    assert installation.registry.register(model) is False
    assert list(installation.registry.model_dir.iterdir()) == []
    assert installation.registry.activate(model_id) is False


def test_a_path_in_the_store_that_leaves_the_directory_is_refused(installation: LearningInstallation) -> None:
    model, _ = registered(installation)
    installation.db.connection.run("UPDATE model_registry SET model_path = '../' || model_path")
    with pytest.raises(ModelFileRefused, match="no file of ours"):
        installation.registry.load(model.model_id)


def test_a_row_without_a_hash_is_not_loaded(installation: LearningInstallation) -> None:
    model = fitted()
    model.save(str(installation.registry.model_dir / f"{model.model_id}.skops"))
    installation.db.register_model(model.get_metadata())
    with pytest.raises(ModelFileRefused):
        installation.registry.load(model.model_id)


def test_a_full_disk_leaves_no_file_and_no_row(
    installation: LearningInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artefact.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        installation.registry.enter(fitted())
    assert installation.registry.register(fitted()) is False
    assert list(installation.registry.model_dir.iterdir()) == []
    assert installation.db.models.history("signal_quality") == []


def test_files_are_for_their_owner_alone(installation: LearningInstallation) -> None:
    _, path = registered(installation)
    assert path.stat().st_mode & 0o777 == 0o600
    assert installation.registry.model_dir.stat().st_mode & 0o777 == 0o700


def test_the_file_is_an_archive_of_plain_values() -> None:
    data = fitted().to_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read("schema.json"))
    assert schema["__class__"] == "dict"
    assert skops.io.get_untrusted_types(data=data) == []
    assert len(data) < 100_000
