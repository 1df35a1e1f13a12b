"""Installations that share a server do not share trainings, and garbage in the queue of trainings ends no trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.retraining.test_rq_worker import put, trainer
from tests.support.real_processes import Installation
from tests.support.waiting import runs, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.installation import open_store
from worker.retraining.queue import QUEUE_NAME, connect_queue, run_id_of
from worker.settings.schema import load_settings

OWN_STREAMS = {
    "REFINERY_STREAMS__SIGNALS_CREATED": "staging.created",
    "REFINERY_STREAMS__TRADES_CLOSED": "staging.closed",
    "REFINERY_STREAMS__SIGNALS_SCORED": "staging.scored",
}
#: Garbage in a field of a job's hash, by the field; and ids that are none.
FIELDS = ("created_at", "enqueued_at", "status", "timeout", "meta", "result_ttl", "data", "origin", "ttl", "all")


@contextmanager
def started(installation: Installation) -> Iterator[None]:
    process = installation.start("trainer")
    try:
        yield
    finally:
        process.terminate()
        process.communicate()


def runs_of(installation: Installation) -> list[str]:
    with FeatureDatabase(installation.state_dir / "features.db") as store:
        return [run.run_id for run in store.runs.recent(10)]


def test_a_trainer_takes_no_training_of_another_installation_on_its_server(
    valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    production, staging = (Installation(tmp_path / name, valkey_url) for name in ("production", "staging"))
    staging.environment.update(OWN_STREAMS)
    for place in (production, staging):
        open_store(load_settings(state_dir=place.state_dir)).close()
    with ExitStack() as stack:
        stack.enter_context(started(production))
        asked = staging.document("retrain")["job_id"]
        done = production.document("retrain", "--wait")
        # The very same training of two stores, by its number: neither keeps the other from being asked for.
        assert run_id_of(asked) == done["run_id"] != asked
        assert (done["status"], runs_of(staging)) == ("completed", [])
        stack.enter_context(started(staging))
        assert staging.document("retrain", "--wait")["status"] == "completed"
    # Each store has its own, and no other that was asked for of the other.
    assert runs_of(production) == [done["run_id"]]
    assert set(runs_of(staging)) >= {done["run_id"]}
    assert {key for key in valkey.keys("rq:queue:*") if valkey.llen(key)} == set()  # type: ignore[union-attr,arg-type]


def test_the_queue_follows_from_streams_and_group_and_is_the_usual_one_where_these_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [load_settings().queue_name]
    monkeypatch.setenv("REFINERY_STREAMS__SIGNALS_SCORED", "other.scored")
    names.append(load_settings().queue_name)
    assert names == [QUEUE_NAME, QUEUE_NAME]
    for variable in ("SIGNALS_CREATED", "TRADES_CLOSED", "GROUP"):
        with monkeypatch.context() as only:
            only.setenv(f"REFINERY_STREAMS__{variable}", "other")
            names.append(load_settings().queue_name)
            assert names[-1] == load_settings().queue_name
    assert len(set(names)) == 4
    monkeypatch.setenv("REFINERY_TRAINING_QUEUE", "trainings-of-staging")
    assert load_settings().queue_name == "trainings-of-staging"


def test_a_trainer_passes_over_garbage_that_waits_in_its_queue(valkey_url: str, tmp_path: Path) -> None:
    with connect_queue(valkey_url) as client:
        whole = {**client.hgetall(put(client, "done", "no").key)}  # type: ignore[misc]
        client.flushall()
        for field in FIELDS:
            names = whole if field == "all" else [field.encode()]
            client.hset(f"rq:job:{field}", mapping={**whole, **dict.fromkeys(names, b"\xff garbage")})
        client.set("rq:job:string", "no hash")
        ids = [*FIELDS, "string", "nothing", "a:b", b"\xff\xfe", ""]
        client.rpush(f"rq:queue:{QUEUE_NAME}", *ids)
        # What a trainer that ended over such a job left behind, and what its cleaning up looks at.
        client.rpush(f"rq:queue:{QUEUE_NAME}:intermediate", *ids)
        client.zadd(f"rq:wip:{QUEUE_NAME}", dict.fromkeys([*(f"{name}:x" for name in FIELDS), b"\xff:x"], 1))
        good = put(client, "done", "yes")
        with trainer(valkey_url, tmp_path / "notes") as process:
            wait_until(lambda: client.hget(good.key, "status") == b"finished")
            assert runs(process.pid)
            wait_until(lambda: client.llen(f"rq:queue:{QUEUE_NAME}") == 0)
            # It goes on to the next one, as long as it lives.
            after = put(client, "done", "again")
            wait_until(lambda: client.hget(after.key, "status") == b"finished")
