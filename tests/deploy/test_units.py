"""The systemd units: read by systemd itself, and their commands run with the environment file that is copied."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import orjson
import pytest
import yaml

from tests.support.composed import COMPOSE, GUIDE, ROOT, documented_steps, free_port, install, ready, start
from tests.support.events import outcome
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.redis_server.binary import find_server
from worker.settings.messages import setting_types
from worker.settings.schema import Settings

UNITS = ROOT / "deploy" / "systemd"
OURS = ("worker", "trainer", "console")
EVERY = (*OURS, "gateway")
#: What the units name and systemd brings along.
GIVEN = ("sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network-online.target")


def service(name: str) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / f"refinery-{name}.service")
    return unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is missing")
def test_systemd_reads_every_line_of_the_units(tmp_path: Path) -> None:
    system = tmp_path / "etc" / "systemd" / "system"
    system.mkdir(parents=True)
    for name in GIVEN:
        (system / name).write_text("[Unit]\nDescription=given\n")
    for name in ("-.slice", "system.slice"):
        (system / name).write_text("[Slice]\n")
    for name in EVERY:
        shutil.copy(UNITS / f"refinery-{name}.service", system)
        program = tmp_path / service(name)["ExecStart"].split()[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    told = verify(tmp_path)
    assert told == ""
    broken = system / "refinery-worker.service"
    broken.write_text(broken.read_text().replace("Restart=always", "Restart=sometimes"))
    assert "Failed to parse" in verify(tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is missing")
@pytest.mark.parametrize("name", EVERY)
def test_a_unit_may_ask_the_kernel_only_for_what_a_service_needs(name: str) -> None:
    asked = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(UNITS / f"refinery-{name}.service")]
    done = subprocess.run(asked, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot judge a file")
    assert done.returncode == 0, done.stdout
    for group in ("privileged", "mount", "module", "debug", "raw-io", "reboot", "clock"):
        assert re.search(rf"✓ SystemCallFilter=~@{group} ", done.stdout), group


def verify(root: Path) -> str:
    units = [f"refinery-{name}.service" for name in EVERY]
    done = subprocess.run(["systemd-analyze", f"--root={root}", "verify", *units], capture_output=True, text=True)
    return done.stderr + done.stdout


@pytest.mark.parametrize("name", OURS)
def test_a_unit_starts_a_command_of_ours_and_lets_it_finish(name: str) -> None:
    unit = service(name)
    assert unit["ExecStart"] == f"/opt/refinery/bin/refinery {name}"
    if name != "console":
        assert int(unit["TimeoutStopSec"]) > int(environment()["REFINERY_SHUTDOWN_GRACE_S"])
    assert unit["NoNewPrivileges"] == "yes"
    limit = yaml.safe_load((ROOT / COMPOSE).read_text())["services"][name]["mem_limit"]
    assert unit["MemoryMax"] == limit.upper()
    assert f"{name} {limit[:-1]} GiB" in GUIDE.read_text()


def test_what_can_hang_is_watched_and_waited_for_at_its_start() -> None:
    assert {name for name in EVERY if service(name).get("Type") == "notify"} == {"worker", "trainer", "gateway"}
    for name in ("worker", "trainer", "gateway"):
        assert int(service(name)["WatchdogSec"]) >= 60
        assert service(name)["TimeoutStartSec"] == "infinity"


def environment(file: str = "refinery.env.example") -> dict[str, str]:
    """The variables of the file that is copied, as systemd reads them."""
    lines = (UNITS / file).read_text().splitlines()
    return dict(re.fullmatch(r"(\w+)=(\S*)", line).groups() for line in lines if not line.startswith("#"))  # type: ignore[union-attr]


def test_the_units_environment_names_settings_only() -> None:
    for file in ("refinery.env.example", "gateway.env.example"):
        assert set(environment(file)) <= set(setting_types(Settings))


def test_the_documented_steps_make_what_the_units_name() -> None:
    steps = documented_steps("useradd")
    assert re.search(r"useradd .* --user-group .* refinery$", steps[0])
    user = {key: service(name)[key] for name in OURS for key in ("User", "Group", "StateDirectory", "EnvironmentFile")}
    assert (user["User"], user["Group"]) == ("refinery", "refinery")
    assert f"--home-dir {environment()['REFINERY_STATE_DIR']} " in steps[0]
    assert environment()["REFINERY_STATE_DIR"] == f"/var/lib/{user['StateDirectory']}"
    copied = [shlex.split(line)[-2:] for line in steps if line.startswith("install ")]
    assert copied == [
        ["deploy/systemd/refinery.env.example", user["EnvironmentFile"]],
        ["deploy/systemd/refinery-*.service", "/etc/systemd/system/"],
    ]
    assert steps[-1].split()[3:] == [f"refinery-{name}" for name in OURS]
    assert f"EnvironmentFile={user['EnvironmentFile']}" in GUIDE.read_text()


@pytest.mark.parametrize("name", OURS)
def test_a_units_command_runs_with_the_environment_that_is_copied(name: str, tmp_path: Path) -> None:
    with ready(install(tmp_path), find_server()) as server:
        given = environment()
        assert given["REFINERY_REDIS_URL"] == "redis://consumer:PASSWORD@localhost:6379/0"
        address = given["REFINERY_REDIS_URL"].replace("PASSWORD", server.password("consumer"))
        here = {
            "REFINERY_REDIS_URL": address.replace("6379", str(server.port)),
            "REFINERY_STATE_DIR": str(tmp_path / "var"),
            "REFINERY_METRICS_PORT": "0",
            "REFINERY_TRAINER_METRICS_PORT": "0",
            "REFINERY_CONSOLE_PORT": str(free_port()),
        }
        log = tmp_path / "log"
        process = start(service(name)["ExecStart"].split()[1:], {**os.environ, **given, **here}, log)
        words = {"worker": "is ready", "trainer": None, "console": "console on"}[name]
        wait_until(
            lambda: (
                process.poll() is not None
                or (words in log.read_text() if words else server.client("consumer").scard("rq:workers"))
            ),
            log.read_text,
        )
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0, log.read_text()


def test_the_gateways_unit_runs_as_the_producer_with_a_socket_for_its_group(tmp_path: Path) -> None:
    unit, given = service("gateway"), environment("gateway.env.example")
    steps = documented_steps("groupadd")
    assert steps[0].split()[-1] == unit["Group"]
    assert f"--gid {unit['Group']} " in steps[1]
    assert steps[1].split()[-1] == unit["User"]
    assert shlex.split(steps[2])[-2:] == ["deploy/systemd/gateway.env.example", unit["EnvironmentFile"]]
    assert steps[3].split()[-1] == "refinery-gateway"
    assert given["REFINERY_GATEWAY__SOCKET"] == f"/run/{unit['RuntimeDirectory']}/gateway.sock"
    assert int(unit["TimeoutStopSec"]) > int(given["REFINERY_SHUTDOWN_GRACE_S"])
    with ready(install(tmp_path), find_server()) as server:
        address = given["REFINERY_REDIS_URL"].replace("PASSWORD", server.password("producer"))
        path, log = tmp_path / "s", tmp_path / "log"
        here = {
            "REFINERY_REDIS_URL": address.replace("6379", str(server.port)),
            "REFINERY_GATEWAY__SOCKET": str(path),
        }
        process = start(unit["ExecStart"].split()[1:], {**os.environ, **given, **here}, log)
        wait_until(lambda: process.poll() is not None or "is ready" in log.read_text(), log.read_text)
        with socket.socket(socket.AF_UNIX) as producer:
            producer.connect(str(path))
            producer.sendall(orjson.dumps({"type": "trade.closed", **outcome(1)}) + b"\n")
            assert orjson.loads(producer.recv(4096))["status"] == "accepted"
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0, log.read_text()
