"""The champion's file is tampered with: refused, nothing runs, what served goes on or the answer is `cold_start`."""

from __future__ import annotations

import io
import os
import pickle
import signal as signals
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis

from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import SIGNALS, signal
from tests.support.models_in_files import only_in_files
from tests.support.processes import fork
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel


class Hostile:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


def _bomb(path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * 300_000_000)
    path.write_bytes(data.getvalue())


def _link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _swap(path: Path) -> None:
    other = next(other for other in path.parent.glob("*.skops") if other != path)
    path.write_bytes(other.read_bytes())


TAMPERED: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "swapped with another model's": _swap,
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile(path.parent / "executed"))),
    "a link": _link,
    "a zip bomb": _bomb,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


def champion(worker: Desk, seed: int) -> Path:
    """A model of the worker's own features, registered and serving; its file."""
    pipeline = FeaturePipeline(worker.settings.to_ml_config().features)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((200, len(pipeline.names)))
    r = np.where(rng.random(200) < 1 / (1 + np.exp(-X[:, 0])), 1.4, -1.0)
    model = SignalQualityModel(max_iter=5)
    model.fit(X, r, feature_names=list(pipeline.names))
    model.feature_version = pipeline.feature_version
    registry = ModelRegistry(str(worker.settings.models_dir), worker.store)
    registry.register(model)
    registry.activate(model.model_id)
    return worker.settings.models_dir / f"{model.model_id}.skops"


@pytest.mark.parametrize("how", TAMPERED)
def test_a_champion_that_was_tampered_with_is_refused_and_scoring_goes_on(
    how: str, tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with desk(settings) as worker:
        first = champion(worker, 1)
        send(valkey, SIGNALS, signal(1))
        worker.drain()
        second = champion(worker, 2)
        TAMPERED[how](second)
        only_in_files(worker.store)
        send(valkey, SIGNALS, signal(2))
        worker.drain()
    with desk(settings) as fresh:  # a worker that never saw the first one
        send(valkey, SIGNALS, signal(3))
        fresh.drain()
        assert fresh.store.counts().dead_letters == 0
    before, beside, after = scored(valkey)
    assert (before["status"], before["model_id"]) == ("scored", first.stem)
    assert (beside["status"], beside["model_id"]) == ("scored", first.stem)
    assert (after["status"], after["model_id"], after["quality_score"]) == ("cold_start", None, None)
    assert not (settings.models_dir / "executed").exists()
    assert pending(valkey) == 0


def test_a_trainer_killed_while_it_writes_a_model_leaves_the_champion_and_no_half_file(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with desk(settings) as worker:
        first = champion(worker, 1)

        def die(*_: object) -> None:
            os.kill(os.getpid(), signals.SIGKILL)

        def write() -> None:
            Path.replace = die  # type: ignore[method-assign, assignment]
            champion(worker, 2)

        assert os.waitstatus_to_exitcode(os.waitpid(fork(write), 0)[1]) == -signals.SIGKILL
        send(valkey, SIGNALS, signal(1))
        worker.drain()
        [answer] = scored(valkey)
        assert answer["model_id"] == first.stem
        assert [path.name for path in settings.models_dir.glob("*.skops")] == [first.name]
        second = champion(worker, 2)
        send(valkey, SIGNALS, signal(2))
        worker.drain()
        assert scored(valkey)[-1]["model_id"] == second.stem


def test_a_model_id_in_the_store_that_is_a_path_leads_nowhere(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    """Whoever can write to the store cannot make the worker read a file of their choice."""
    settings = settings_for(tmp_path / "var", valkey_url)
    with desk(settings) as worker:
        path = champion(worker, 1)
        outside = tmp_path / "outside.skops"
        path.rename(outside)
        worker.store.connection.run("UPDATE model_registry SET model_path = '../../outside.skops'")
        send(valkey, SIGNALS, signal(1))
        worker.drain()
    [answer] = scored(valkey)
    assert answer["status"] == "cold_start"
