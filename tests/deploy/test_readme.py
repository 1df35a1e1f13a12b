"""Every block of the README and of docs/events.md, as a newcomer runs them: in order, in a fresh directory, on `up`."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import bars
from tests.support.real_processes import QUIET
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.redis_server.embedded import answers

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.S | re.M)
#: What a demo shows takes minutes; its own tests compare what it says.
SHOWN = ("signal generator ──►", "signals       1,", "A planted edge,")


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of each block, in order."""
    return [(found[1], found[2]) for found in _BLOCK.finditer(path.read_text())]


README, EVENTS = blocks(ROOT / "README.md"), blocks(ROOT / "docs" / "events.md")


class FreshDirectory:
    """A directory with `.venv` and nothing else, where `refinery up` runs; ports are off, since machines are shared."""

    def __init__(self, path: Path, market: Path) -> None:
        self.path = path
        (path / ".venv").symlink_to(sys.prefix)
        own = [path / "bin", path / ".venv" / "bin"]
        own[0].mkdir()
        if not shutil.which("redis-cli"):
            _stand_in(own[0] / "redis-cli")
        search = os.pathsep.join([*map(str, own), os.environ["PATH"]])
        self.environment = {
            **os.environ,
            **QUIET,
            "PATH": search,
            "PYTHONPATH": str(ROOT),
            "REFINERY_MARKET_DATA_DIR": str(market),
        }

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=HANGS_AFTER_S
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def counts(self) -> Any:
        with FeatureDatabase(self.path / "var" / "features.db", read_only=True) as store:
            return store.counts()

    def became(self, signal_id: str) -> bool:
        """Whether a signal is stored, with its outcome."""
        with FeatureDatabase(self.path / "var" / "features.db", read_only=True) as store:
            stored = store.get_feature_vector(signal_id)
            return stored is not None and stored.target is not None


def _stand_in(path: Path) -> None:
    """Where a machine has no redis-cli: one that hands its words to the server as they are."""
    path.write_text(
        f"#!{sys.executable}\nimport sys, redis\n"
        "print(redis.Redis(unix_socket_path=sys.argv[2]).execute_command(*sys.argv[3:]))\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshDirectory]:
    path, market = tmp_path_factory.mktemp("fresh"), tmp_path_factory.mktemp("market")
    columns = bars(260, end=datetime(2024, 5, 31, 20, tzinfo=UTC))
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (market / "AAPL.csv").write_text("\n".join(lines) + "\n")
    directory = FreshDirectory(path, market)
    (command,) = [text for _, text in README if text.strip().endswith("refinery up")]
    process = subprocess.Popen(
        command.split(), cwd=path, env=directory.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    socket = path / "var" / "valkey" / "valkey.sock"
    wait_until(lambda: socket.exists() and answers(socket))
    yield directory
    process.terminate()
    process.communicate(timeout=HANGS_AFTER_S)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_as_written_and_in_order(fresh: FreshDirectory) -> None:
    (fresh.path / "trades.csv").write_text(
        "Entry time,Ticker,Exit time,R\n2024-03-01 15:00,AAPL,2024-03-04 15:00,1.5\n2024-03-05 15:00,AAPL,,\n"
    )
    ran = []
    for language, text in README:
        first = text.split()[0]
        if language == "python":
            fresh.run(".venv/bin/python", "-c", text)
        elif first == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert [line for line in text.splitlines() if line.split()[1] not in targets] == []
        elif first == "export":
            _check_settings(fresh, text)
        elif text.startswith(SHOWN) or text.strip().endswith("refinery up"):
            continue  # `up` runs already
        else:
            fresh.run("sh", "-euc", text)
        ran.append(first)
    assert ran == ["make", "make", "from", "redis-cli", "refinery", "export", "import"]
    wait_until(lambda: fresh.became("readme-1"))
    counts = fresh.counts()
    assert (counts.signals, counts.labelled, counts.dead_letters_open) == (3, 2, 0)
    newest = datetime.fromisoformat(counts.newest_label)
    assert newest <= datetime.now(UTC), "an outcome that is dated ahead would silence an alert until then"


def _check_settings(fresh: FreshDirectory, text: str) -> None:
    """What the variables say is accepted; the servers and directories that they name are an example's."""
    exports = [line for line in text.splitlines() if line.startswith("export")]
    here = "\n".join(exports).replace("/srv/bars", fresh.environment["REFINERY_MARKET_DATA_DIR"])
    loads = "from worker.settings.schema import load_settings; print(load_settings().ml.min_new_samples_for_retrain)"
    assert fresh.run("sh", "-euc", f"{here}\n.venv/bin/python -c '{loads}'").strip() == "50"
    rest = [line.split("#")[0].split() for line in text.splitlines() if not line.startswith("export")]
    for command in rest:
        fresh.run(*command, "--help")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["python", "shell", "node"])
def test_an_example_ends_as_a_handled_signal_and_trade(language: str, fresh: FreshDirectory) -> None:
    if language == "node" and not shutil.which("node"):
        pytest.skip("there is no node here")
    run = {
        "python": (".venv/bin/python", "producer.py"),
        "shell": ("sh", "producer.sh"),
        "node": ("node", "producer.mjs"),
    }
    command, name = run[language]
    fresh.run(command, ROOT / "examples" / name)
    wait_until(lambda: fresh.became(f"{language}-1"))
    assert fresh.counts().dead_letters_open == 0


@pytest.mark.slow
def test_the_blocks_of_the_page_of_events_run_as_written_and_in_order(fresh: FreshDirectory) -> None:
    ran = []
    for language, text in EVENTS:
        if language == "json" or language == "json signal.scored":
            continue  # answers, which are read in the tests of events and of the gateway
        if language.startswith("json "):
            line = text.replace("{", f'{{"type": "{language.split()[1]}", ', 1).replace("\n", " ")
            (fresh.path / "events.jsonl").write_text(line + "\n")
            fresh.run("refinery", "publish", "events.jsonl")
        elif language == "python client":
            assert fresh.run(".venv/bin/python", "-c", text) == "client-1 cold_start\n"
        else:
            assert language in ("sh", "python gateway"), f"nobody knows how to run a block of {language!r}"
            continue  # the gateway's, which run in its tests
        ran.append(language)
    assert ran == ["python client", "json signal.created", "json signal.created", "json trade.closed"]
    for signal_id in ("client-1", "desk-7:2024-05-31:AAPL"):
        wait_until(lambda: fresh.became(signal_id))  # noqa: B023 - called at once
    with FeatureDatabase(fresh.path / "var" / "features.db", read_only=True) as store:
        assert store.get_feature_vector("desk-7:2024-05-31:BTC-1") is not None
    assert fresh.counts().dead_letters_open == 0
