"""One training at a time, wherever the trainers are: holders that die, that stand still, and that are elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.labels import label
from tests.support.processes import fork
from tests.support.waiting import wait_until
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, StoreUnavailable
from trading_system.ml_refinement.storage.postgres import connection as postgres
from trading_system.ml_refinement.training import pipeline
from worker.installation import open_store
from worker.retraining import job, lease
from worker.retraining.job import retrain, sweep
from worker.retraining.lease import TRAINING, take_lease, trainer_at_work, training_lease
from worker.settings.schema import Settings
from worker.supervision.process_identity import known_dead, place_name, this_process

TYPE = ModelType.SIGNAL_QUALITY.value


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1)
    monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.1)
    monkeypatch.setattr(lease, "_POLL_S", 0.05)
    monkeypatch.setattr(postgres, "_IDLE_WRITER_MS", 500)


def taken(store: FeatureDatabase) -> bool:
    """Whether the right to train was taken now; who was stopped inside a transaction keeps the store for a moment."""
    with suppress(StoreUnavailable):
        return take_lease(store, first=sweep) is not None
    return False


def on_host(name: str) -> None:
    socket.gethostname = lambda: name


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_while_it_trains(settings: Settings, host: str) -> None:
    def work() -> None:
        on_host(host)
        with open_store(settings) as own, training_lease(settings, own, first=sweep):
            own.runs.start("retrain-signal_quality-0", TYPE, {}, label_watermark=0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(fork(work)) == -signal.SIGKILL


def test_a_trainer_killed_on_this_host_is_not_waited_for(settings: Settings, store: FeatureDatabase) -> None:
    killed_while_it_trains(settings, socket.gethostname())
    assert store.leases.holder_of(TRAINING) is not None
    assert trainer_at_work(store) is None
    assert take_lease(store, first=sweep) == 2
    assert store.runs.last(TYPE).status == "failed"
    assert trainer_at_work(store) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.usefixtures("short")
def test_a_trainer_killed_on_another_host_is_waited_for_as_long_as_it_may_live(
    settings: Settings, store: FeatureDatabase
) -> None:
    killed_while_it_trains(settings, "elsewhere")
    assert take_lease(store, first=sweep) is None
    assert "on elsewhere" in (trainer_at_work(store) or "")
    assert store.runs.last(TYPE).status == "running"
    wait_until(lambda: take_lease(store, first=sweep) == 2)
    assert store.runs.last(TYPE).status == "failed"


@pytest.mark.usefixtures("short")
def test_a_trainer_that_lives_keeps_its_right_for_longer_than_one_lease(
    settings: Settings, store: FeatureDatabase
) -> None:
    with open_store(settings) as own, training_lease(settings, own, first=sweep):
        first = store.leases.holder_of(TRAINING)
        assert first is not None
        with own._connection.snapshot():  # the training reads for longer than a lease
            wait_until(lambda: getattr(store.leases.holder_of(TRAINING), "until", "") > f"{first.until[:22]}999")
            wait_until(lambda: store._connection.one("SELECT ? < until FROM leases", (first.until,)) == (1,))
        assert take_lease(store, first=sweep) is None
    assert take_lease(store, first=sweep) == first.token + 1


@pytest.mark.usefixtures("short")
def test_a_trainer_that_stood_still_beyond_its_time_activates_nothing(
    settings: Settings, store: FeatureDatabase, tmp_path: Path
) -> None:
    label(store, settings, 150)

    def work() -> None:
        on_host("elsewhere")
        still_ours, candidates = pipeline._Run._still_ours, pipeline._Run._candidates

        def stop_after(*arguments: object) -> object:
            fitted = candidates(*arguments)
            os.kill(os.getpid(), signal.SIGSTOP)
            return fitted

        def noted(run: object) -> None:
            (tmp_path / "settles").touch()
            still_ours(run)

        pipeline._Run._candidates, pipeline._Run._still_ours = stop_after, noted  # type: ignore[method-assign]
        retrain(settings, model_type=TYPE, after=0, reason="test")

    pid = fork(work)
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        wait_until(lambda: taken(store))
        assert store.runs.last(TYPE).status == "failed"
        os.kill(pid, signal.SIGCONT)
        assert ended(pid) == 1
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert (tmp_path / "settles").exists()
    assert store.models.active_id(TYPE) is None
    [(token, until)] = store._connection.query("SELECT token, until FROM leases")
    assert (token, bool(until)) == (2, True)  # the late one gave nothing of ours back


def test_of_trainers_on_two_hosts_one_trains_what_was_asked_for_once(
    settings: Settings, store: FeatureDatabase, tmp_path: Path
) -> None:
    label(store, settings, 30)

    def work(host: str) -> Callable[[], None]:
        def train() -> None:
            on_host(host)
            did = retrain(settings, model_type=TYPE, after=0, reason="test")
            (tmp_path / host).write_text(did["status"])

        return train

    assert [ended(pid) for pid in [fork(work("one")), fork(work("other"))]] == [0, 0]
    assert sorted((tmp_path / host).read_text() for host in ("one", "other")) == ["completed", "skipped"]
    assert len(store.runs.recent()) == 1


@pytest.mark.usefixtures("short")
def test_of_two_hosts_trainers_one_killed_with_its_models_fitted_the_other_alone_has_a_model_serve(
    settings: Settings, store: FeatureDatabase, tmp_path: Path
) -> None:
    label(store, settings, 150)
    # What hosts share is a store on a server; in one file they share the directory too.
    apart = settings if settings.store_url is None else settings.model_copy(update={"state_dir": tmp_path / "other"})

    def dies() -> None:
        on_host("one")
        candidates = pipeline._Run._candidates

        def die_after(*arguments: object) -> object:
            candidates(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        pipeline._Run._candidates = die_after  # type: ignore[method-assign, assignment]
        retrain(settings, model_type=TYPE, after=0, reason="test")

    def takes_over() -> None:
        on_host("other")
        did = retrain(apart, model_type=TYPE, after=1, reason="test")
        (tmp_path / "did").write_text(did["status"])

    assert ended(fork(dies)) == -signal.SIGKILL
    assert store.runs.last(TYPE).status == "running"
    assert ended(fork(takes_over)) == 0
    assert (tmp_path / "did").read_text() == "completed"
    newest, before = store.runs.recent()
    assert (newest.status, before.status) == ("completed", "failed")
    assert store.models.active_id(TYPE) == newest.model_id
    models = {row.model_id for row in store.models.history(limit=100)}
    assert [model for model in models if model.startswith(TYPE)] == [newest.model_id]


def test_housekeeping_lets_a_training_of_another_host_go_on(settings: Settings, store: FeatureDatabase) -> None:
    store.leases.take(TRAINING, "elsewhere 7 other-kernel 99", 90)
    store.runs.start("retrain-signal_quality-0", TYPE, {}, label_watermark=0)
    job._tidy_up(settings, store)
    assert store.runs.last(TYPE).status == "running"
    store.leases.release(TRAINING, 1)
    job._tidy_up(settings, store)
    assert store.runs.last(TYPE).status == "failed"
    assert store.leases.holder_of(TRAINING) is None


def test_a_process_is_known_to_be_dead_only_where_this_host_can_tell() -> None:
    me = this_process()
    assert not known_dead(str(me))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    theirs = me._replace(pid=child.pid)
    assert known_dead(str(theirs))  # ended, though nobody has asked for its status yet
    child.wait()
    assert known_dead(str(theirs))
    assert known_dead(str(me._replace(started="1")))  # its number was given to another process
    assert not known_dead(str(theirs._replace(host="elsewhere")))
    assert not known_dead(str(theirs._replace(kernel="of another container")))
    assert not known_dead("a holder of a later release")
    assert place_name("a-name") == "a-name"
