"""The client's own distribution: its modules beside redis, pydantic and orjson alone do all that a client does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import redis

from tests.support.desk import desk, settings_for
from tests.support.events import SIGNALS
from tests.support.waiting import HANGS_AFTER_S
from worker.client import USUAL_STREAMS
from worker.settings.schema import StreamSettings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What the three need themselves.
THEIRS = ("annotated_types", "orjson", "pydantic", "pydantic_core", "redis", "typing_extensions", "typing_inspection")

SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
from datetime import UTC, datetime, timedelta
from worker.client import RefineryClient
from worker.errors import DecodeError, RefineryError

now = datetime.now(UTC)
closes = [100.0 + day for day in range(300)]
bars = {"timestamp": [now - timedelta(days=299 - day) for day in range(300)], "open": closes, "close": closes,
        "high": [close + 1 for close in closes], "low": [close - 1 for close in closes], "volume": [1e6] * 300}
about = dict(signal_id="alone-1", timestamp=now, symbol="ACME", asset_class="equity", signal_type="breakout")
with RefineryClient(sys.argv[2]) as client:
    client.signal_created(**about, bars=bars, features={"edge": 1})
    client.trade_closed(signal_id="alone-1", closed_at=datetime.now(UTC), r_multiple=1.5)
    print([entry.score.signal_id for entry in client.scores(after="0", wait_s=0)])
    for wrong in ({"bars": bars | {"low": closes[::-1]}}, {"bars": bars, "entry_price": float("nan")}):
        try:
            client.signal_created(**about, **wrong)
        except DecodeError as error:
            print(error.reason.value)
try:
    RefineryClient(sys.argv[2], outbox="outbox.db")
except RefineryError as error:
    print(error)
"""


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder to import from: what the distribution lists, and what the three packages are made of."""
    folder = tmp_path / "alone"
    folder.mkdir()
    for name in PROJECT["tool"]["setuptools"]["py-modules"]:
        path = Path(*name.split("."))
        for file in (path.with_suffix(".py"), *(parent / "__init__.py" for parent in path.parents if parent.name)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / file).exists():
                (folder / file).write_bytes((ROOT / file).read_bytes())
    for name in THEIRS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        there = origin.parent if origin.name == "__init__.py" else origin
        (folder / there.name).symlink_to(there)
    return folder


def test_a_client_without_arrays_publishes_what_the_worker_takes_and_refuses_what_it_would(
    alone: Path, valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(alone), valkey_url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    scores, *refused, outbox = done.stdout.splitlines()
    assert (scores, refused) == ("[]", ["bad_bars", "bad_number"])
    assert outbox == "an outbox needs apsw: pip install 'signal-refinery-client[outbox]'"
    assert valkey.xlen(SIGNALS) == 1
    with desk(settings_for(tmp_path / "var", valkey_url)) as world:
        handled = world.drain()
    assert (handled.signals, handled.labelled, handled.dead_lettered) == (1, 1, 0)


def test_the_two_distributions_are_of_one_release_and_ask_for_the_same() -> None:
    own = PROJECT["project"]
    assert own["version"] == WHOLE["version"]
    assert own["requires-python"] == WHOLE["requires-python"]
    asked = {need.replace("[hiredis]", "") for need in WHOLE["dependencies"]}
    assert set(own["dependencies"]) <= asked
    assert set(own["optional-dependencies"]["outbox"]) <= asked
    assert {need.partition(">")[0] for need in own["dependencies"]} == {"redis", "pydantic", "orjson"}


def test_the_usual_streams_of_a_client_are_those_of_the_settings() -> None:
    usual = StreamSettings()
    assert (usual.signals_created, usual.trades_closed, usual.signals_scored) == USUAL_STREAMS
