"""What is shipped for installing: the compose file, the image's steps, the units, and Redis's users, each tried."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml
from typer.main import get_command

from tests.support.desk import send
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.waiting import HANGS_AFTER_S, answers, wait_until
from worker.cli.main import cli
from worker.redis_server.binary import find_server
from worker.settings.messages import setting_types
from worker.settings.schema import Settings, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PASSWORDS = {"CONSUMER_PASSWORD": "c" * 16, "CONSOLE_OPERATOR_PASSWORD": "o" * 16, "CONSOLE_VIEWER_PASSWORD": "v" * 16}
COMMANDS = set(get_command(cli).commands)  # type: ignore[attr-defined]
OURS = ("worker", "trainer", "console")


def compose() -> dict[str, Any]:
    """The compose file with its variables filled in, as the engine does it."""
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: PASSWORDS[match[1]], COMPOSE.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_compose_file_follows_the_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec" / "schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose())


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    named = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert named == set(re.findall(r"^(\w+)=", (ROOT / "deploy" / "env.example").read_text(), re.M)) == set(PASSWORDS)


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_a_command_of_ours_with_settings_of_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose()["services"][name]
    assert service["command"] == [name]
    assert name in COMMANDS
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("REFINERY_MARKET_DATA_DIR", str(tmp_path))
    settings = load_settings(state_dir=tmp_path)
    assert service["environment"]["REFINERY_MARKET_DATA_DIR"] in {v.split(":")[1] for v in service["volumes"]}
    assert seconds(service["stop_grace_period"]) > (settings.shutdown_grace_s if name != "console" else 0)
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    port = {"worker": settings.metrics_port, "trainer": settings.trainer_metrics_port, "console": settings.console_port}
    assert f"127.0.0.1:{port[name]}/" in service["healthcheck"]["test"][-1]


def test_only_the_console_is_published_and_only_on_this_machine() -> None:
    services = compose()["services"]
    assert {name: s["ports"] for name, s in services.items() if "ports" in s} == {"console": ["127.0.0.1:8700:8700"]}
    assert compose()["networks"]["inside"]["internal"] is True
    assert all("outside" not in services[name]["networks"] for name in ("redis", "worker", "trainer"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real server with the compose file's options and the shipped users; its port."""
    base, port = tmp_path_factory.mktemp("guarded"), free_port()
    users = (ROOT / "deploy" / "redis" / "users.acl.example").read_text()
    rules = [line for line in users.splitlines() if line and not line.startswith("#")]
    (base / "users.acl").write_text(
        re.sub(r">(\w+)_PASSWORD", lambda m: f">{m[1].lower() * 3}", "\n".join(rules)) + "\n"
    )
    options = shlex.split(compose()["services"]["redis"]["command"])
    assert options[0] == "valkey-server"
    options[options.index("--aclfile") + 1] = str(base / "users.acl")
    server = subprocess.Popen(
        [str(find_server()), *options[1:], "--port", str(port), "--bind", "127.0.0.1", "--dir", str(base)],
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: answers(as_user(port, "consumer")))
    yield port
    server.terminate()
    server.wait(HANGS_AFTER_S)


def as_user(port: int, name: str) -> redis.Redis:
    return redis.Redis(port=port, username=name, password=name * 3, protocol=2)


def test_producers_append_to_their_streams_and_nothing_else(guarded: int) -> None:
    producer = as_user(guarded, "producer")
    assert producer.xadd(SIGNALS, {"data": b"{}"})
    for refused in (
        lambda: producer.xadd("signals.scored", {"data": b"{}"}),
        lambda: producer.xrange(SIGNALS),
        lambda: producer.delete(SIGNALS),
        lambda: producer.xtrim(SIGNALS, maxlen=0),
        lambda: producer.config_get("*"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=guarded).ping()


def test_ops_look_and_do_not_change(guarded: int) -> None:
    ops = as_user(guarded, "ops")
    assert ops.info()
    assert ops.xlen(SIGNALS) >= 0
    for refused in (lambda: ops.xadd(SIGNALS, {"data": b""}), ops.flushall, lambda: ops.config_set("maxmemory", 1)):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()


def test_consumers_cannot_throw_everything_away(guarded: int) -> None:
    consumer = as_user(guarded, "consumer")
    for refused in (
        consumer.flushall,
        consumer.flushdb,
        consumer.shutdown,
        lambda: consumer.config_set("maxmemory", 1),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()


def healthy(service: str, port: int) -> bool:
    """Whether the compose file's own check of the service passes, on the port used here."""
    check = compose()["services"][service]["healthcheck"]["test"]
    command = [sys.executable, *check[2:3], re.sub(r":\d+/", f":{port}/", check[3])]
    assert check[:2] == ["CMD", "python"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_as_its_user_and_its_health_check_passes(name: str, guarded: int, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        **{key: str(value) for key, value in compose()["services"][name]["environment"].items()},
        "REFINERY_REDIS_URL": f"redis://consumer:{'consumer' * 3}@127.0.0.1:{guarded}/0",
        "REFINERY_MARKET_DATA_DIR": str(tmp_path),
        "REFINERY_STATE_DIR": str(tmp_path / "var"),
        **dict.fromkeys(("REFINERY_METRICS_PORT", "REFINERY_TRAINER_METRICS_PORT", "REFINERY_CONSOLE_PORT"), str(port)),
        "REFINERY_METRICS_HOST": "127.0.0.1",
        "REFINERY_CONSOLE_HOST": "127.0.0.1",
    }
    command = compose()["services"][name]["command"]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen([sys.executable, "-m", "worker", *command], env=environment, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or healthy(name, port), (tmp_path / "log").read_text)
        assert process.poll() is None, (tmp_path / "log").read_text()
        if name == "worker":
            producer = as_user(guarded, "producer")
            send(producer, SIGNALS, signal(1))
            send(producer, TRADES, outcome(1))
            counted = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: "refinery_labels_total 1.0" in fetch(counted), (tmp_path / "log").read_text)
            assert as_user(guarded, "scores").xlen("signals.scored") >= 1
    finally:
        process.terminate()
        process.wait(HANGS_AFTER_S)
    lines = (tmp_path / "log").read_text()
    assert all(json.loads(line) for line in lines.splitlines() if line), "logs are JSON lines"
    assert "NOPERM" not in lines
    assert "consumer" * 3 not in lines


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANGS_AFTER_S) as answer:  # noqa: S310 - our own process
        text: str = answer.read().decode()
        return text


def test_the_image_is_installed_as_make_installs_it() -> None:
    image, make = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert re.search(r"-m venv ", image)
    assert re.search(r"-m venv ", make)
    wanted = re.search(r"-m pip install .*-c constraints.txt", make)
    assert wanted
    assert re.search(r"-m pip install .*-c constraints.txt '\.\[console,parquet\]'", image)
    assert set(re.findall(r"^COPY ([\w./ ]+?) (?:\./|\.)", image, re.M)) >= {"pyproject.toml constraints.txt README.md"}
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in re.findall(r"^FROM (\S+)", image, re.M))
    assert re.findall(r"^USER (\S+)", image, re.M) == ["10001:10001"]
    assert '["refinery"]' in image


@pytest.mark.parametrize("name", OURS)
def test_a_unit_starts_a_command_of_ours_and_lets_it_finish(name: str) -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "systemd" / f"refinery-{name}.service")
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == [name]
    if name != "console":
        assert int(service["TimeoutStopSec"]) > Settings.model_fields["shutdown_grace_s"].default
    assert service["User"] == "refinery"
    assert service["NoNewPrivileges"] == "yes"


def test_the_units_environment_names_settings_only() -> None:
    named = re.findall(r"^(REFINERY_\w+)=", (ROOT / "deploy" / "systemd" / "refinery.env.example").read_text(), re.M)
    assert named
    assert set(named) <= set(setting_types(Settings))
