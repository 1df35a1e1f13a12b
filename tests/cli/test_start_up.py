"""What a command loads before it says anything: those that only look load neither learning nor its company.

Loaded modules are looked at, and not the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.cli.main import cli

LEARNING = frozenset(
    ("sklearn", "scipy", "pandas", "skops", "joblib", "flask", "matplotlib", "rq", "prometheus_client", "optuna")
)
ARRAYS_AND_SERVER = frozenset(("numpy", "redis"))
#: What reading settings from the environment needs nothing of.
OTHER_SOURCES = frozenset(("pydantic_settings", "dotenv", "argparse", "tomllib"))

TELL = """
import json, sys
sys.argv[0] = "refinery"
from worker.cli.main import main
try:
    main()
finally:
    sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""

ONLY_LOOK = (
    "--help",
    "--version",
    "status",
    "status --json",
    "dead-letters --help",
    "dead-letters list",
    "dead-letters list --groups",
    "models list",
    "models history",
    "schema",
    "asyncapi",
    "prune --dry-run",
)
WITH_ARRAYS = ("features", "features missing")


def loaded_by(command: str, state_dir: Path, *, redis_url: str | None = None, whole: bool = False) -> set[str]:
    """The packages, or with `whole` the modules, that a process has loaded when it ends well."""
    environment = os.environ | {"REFINERY_STATE_DIR": str(state_dir)}
    if redis_url is not None:
        environment["REFINERY_REDIS_URL"] = redis_url
    done = subprocess.run(
        [sys.executable, "-c", TELL, *command.split()],
        env=environment,
        capture_output=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    modules = json.loads(done.stderr.splitlines()[-1])
    return {name if whole else name.partition(".")[0] for name in modules}


@pytest.fixture
def store_dir(state_dir: Path) -> Path:
    FeatureDatabase(state_dir / "features.db").initialize()
    return state_dir


@pytest.mark.parametrize("command", ONLY_LOOK)
def test_a_command_that_only_looks_loads_neither_learning_nor_arrays_nor_the_client_of_redis(
    command: str, store_dir: Path
) -> None:
    assert not loaded_by(command, store_dir) & (LEARNING | ARRAYS_AND_SERVER | OTHER_SOURCES)


@pytest.mark.parametrize("command", ["status --json", "schema", "asyncapi"])
def test_a_json_document_needs_no_tables(command: str, store_dir: Path) -> None:
    assert "rich" not in loaded_by(command, store_dir)


def test_a_command_loads_no_other_ones(store_dir: Path) -> None:
    loaded = loaded_by("status --json", store_dir, whole=True)
    assert {name for name in loaded if name.startswith("worker.cli.")} == {
        "worker.cli.main",
        "worker.cli.options",
        "worker.cli.output",
        "worker.cli.status",
    }


def test_every_command_is_where_the_table_of_commands_says() -> None:
    commands = get_command(cli).commands  # type: ignore[attr-defined]
    assert [command.name for command in commands.values()] == list(commands)


@pytest.mark.parametrize("command", WITH_ARRAYS)
def test_a_command_about_features_loads_arrays_and_no_learning(command: str, store_dir: Path) -> None:
    assert not loaded_by(command, store_dir) & LEARNING


def test_a_status_with_server_and_champion_loads_no_learning(store_dir: Path, valkey_url: str) -> None:
    with FeatureDatabase(store_dir / "features.db") as db:
        now = "2026-01-01T00:00:00.000000Z"
        metadata = ModelMetadata("one", ModelType.SIGNAL_QUALITY, "1", now, now, now, 100, 20)
        db.register_model(metadata)
        assert db.activate_model("one")
    loaded = loaded_by("status", store_dir, redis_url=valkey_url)
    assert "redis" in loaded
    assert not loaded & LEARNING


def test_publishing_loads_no_learning(store_dir: Path, valkey_url: str, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text(
        '{"type": "trade.closed", "signal_id": "a", "closed_at": "2026-01-01T00:00:00Z", "r_multiple": 1}\n'
    )
    assert not loaded_by(f"publish {events}", store_dir, redis_url=valkey_url) & LEARNING
