"""The commands and the worker on a store that the specification's own code wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, signal
from tests.support.specification_store import filled
from worker.cli.main import cli
from worker.observability.doctor import examine
from worker.observability.status import read_status
from worker.settings.schema import Settings


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    settings = settings_for(tmp_path / "var", valkey_url, console_port=0)
    dirty = [{"signal_id": "when", "timestamp": "yesterday"}, {"signal_id": "nan", "features": {"rsi": math.nan}}]
    filled(settings.store_path, dirty=dirty)
    return settings


def said(settings: Settings, part: str) -> list[tuple[str, str, str]]:
    return [(one.verdict, one.says, one.advice) for one in examine(settings) if one.part == part]


def test_the_worker_takes_it_over_and_status_and_doctor_tell_what_is_kept_aside(
    settings: Settings, valkey: redis.Redis
) -> None:
    ((verdict, says, advice),) = said(settings, "store")
    assert (verdict, "step 1" in says, "status" in advice) == ("bad", True, True)
    assert said(settings, "models") == []
    with desk(settings) as world:
        send(world.client, SIGNALS, signal(1))
        world.drain()
        state = read_status(settings, world.store, valkey)
        assert (state.signals, state.labelled, state.quarantined, state.champion) == (61, 60, 3, None)
        assert world.store.scores.newest_payloads(1)[0].count(b"cold_start") == 1
    told = [says for verdict, says, _ in said(settings, "store") if verdict == "warn"]
    assert any("1 of feature_vectors removed: timestamp is not a time" in says for says in told)
    assert any("1 of feature_vectors removed: a feature is not a finite number" in says for says in told)


def test_its_models_are_listed_and_refused(settings: Settings) -> None:
    environment = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": str(settings.redis_url)}
    (settings.models_dir).mkdir(mode=0o700, exist_ok=True)
    (settings.models_dir / "m1.pkl").write_bytes(b"cos\nsystem\n(S'touch never'\ntR.")
    listed = CliRunner().invoke(cli, ["models", "list", "--json"], env=environment)
    assert listed.exit_code == 0, listed.output
    assert [model["model_id"] for model in json.loads(listed.stdout)] == ["m1"]
    refused = CliRunner().invoke(cli, ["models", "activate", "m1"], env=environment)
    assert refused.exit_code == 1
    assert "m1.pkl is a pickle, which is never loaded" in str(refused.exception)
