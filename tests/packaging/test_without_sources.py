"""An installation of compiled modules only, without their sources, works as one that has them."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import HANGS_AFTER_S

ROOT = Path(__file__).parents[2]
PACKAGES = ("worker", "trading_system")

#: Every module but those that are started as programs.
IMPORT_ALL = """
import importlib, pkgutil, trading_system, worker
assert worker.__file__.endswith(".pyc"), worker.__file__
for package in (worker, trading_system):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""
TELL_WHAT_USERS_READ = """
import json
from worker.errors import Reason
from worker.events.models import json_schema
kinds = ("signal.created", "trade.closed", "signal.scored")
advice = {reason.value: reason.advice for reason in Reason}
print(json.dumps({"advice": advice, "schemas": [json_schema(kind) for kind in kinds]}))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both packages as .pyc files and their data, and no source."""
    place = tmp_path_factory.mktemp("compiled")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(place, quiet=1, legacy=True)
    for source in place.rglob("*.py"):
        source.unlink()
    return place


def run(script: str, place: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_console_starts_without_sources(compiled: Path) -> None:
    run("import worker.console.application", compiled)


def test_every_module_is_imported_without_sources(compiled: Path) -> None:
    run(IMPORT_ALL, compiled)


def test_reasons_and_schemas_say_the_same_without_sources(compiled: Path) -> None:
    with_sources = json.loads(run(TELL_WHAT_USERS_READ, ROOT))
    assert json.loads(run(TELL_WHAT_USERS_READ, compiled)) == with_sources
    assert all(with_sources["advice"].values())
