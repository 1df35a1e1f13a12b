"""What `deploy/README.md` installs: the files as the documented commands leave them, and the compose file's server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import yaml

from tests.support.waiting import HANGS_AFTER_S, answers, wait_until
from worker.redis_server.binary import find_server

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose.yml"
GUIDE = ROOT / "deploy" / "README.md"

_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:\?|:-)([^}]*))?\}")


def servers() -> list[Path]:
    """The servers of this machine: the one that is shipped, and those on the path."""
    found = [find_server(), *(Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name)))]
    return list({path.resolve(): path for path in found}.values())


def documented_commands(block: int) -> list[str]:
    """The lines of a block of the guide, from 0."""
    return re.findall(r"^```\n(.*?)^```$", GUIDE.read_text(), re.S | re.M)[block].splitlines()


def documented_steps(first: str) -> list[str]:
    """The lines of the block of the guide that begins with this command."""
    [steps] = re.findall(rf"^```\n({first} .*?)^```$", GUIDE.read_text(), re.S | re.M)
    return str(steps).splitlines()


def install(directory: Path) -> Path:
    """The shipped files in a directory, after the documented commands that need no engine."""
    shutil.copytree(ROOT / "deploy", directory / "deploy", ignore=shutil.ignore_patterns("users.acl"))
    shutil.copy(ROOT / COMPOSE, directory)
    first, second = documented_commands(0)
    assert second == "docker compose up -d"
    subprocess.run(shlex.split(first), cwd=directory, check=True, capture_output=True)
    return directory


def variables(directory: Path) -> dict[str, str]:
    """What `.env` says."""
    return dict(re.findall(r"^(\w+)=(.*)$", (directory / ".env").read_text(), re.M))


def compose(directory: Path) -> dict[str, Any]:
    """The compose file of an installation, its variables filled in as the engine does it."""
    known = variables(directory)

    def value(match: re.Match[str]) -> str:
        name, operator, words = match[1], match[2], match[3]
        if name is None:
            return "$"
        if known.get(name):
            return known[name]
        assert operator == ":-", f"{name}: {words}"
        return words

    loaded: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, (directory / COMPOSE).read_text()))
    return loaded


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Composed:
    """The compose file's server while it runs."""

    directory: Path
    binary: Path
    port: int

    @property
    def services(self) -> dict[str, Any]:
        services: dict[str, Any] = compose(self.directory)["services"]
        return services

    def password(self, user: str) -> str:
        return variables(self.directory)[f"{user.upper()}_PASSWORD"]

    def url(self, user: str) -> str:
        return f"redis://{user}:{self.password(user)}@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user), protocol=2)

    def environment(self, service: str, state_dir: Path, **more: str) -> dict[str, str]:
        """What the service's process is given, with addresses and directories of this machine."""
        given = {name: str(value) for name, value in self.services[service]["environment"].items()}
        assert given["REFINERY_REDIS_URL"] == f"redis://consumer:{self.password('consumer')}@redis:6379/0"
        hosts = {name: "127.0.0.1" for name in given if name.endswith("_HOST")}
        assert set(hosts.values()) <= {"127.0.0.1"}
        return {
            **os.environ,
            **given,
            **hosts,
            "REFINERY_REDIS_URL": self.url("consumer"),
            "REFINERY_MARKET_DATA_DIR": str(state_dir.parent),
            "REFINERY_STATE_DIR": str(state_dir),
            **more,
        }

    def refused(self) -> dict[str, int]:
        """How often each command was refused before it ran."""
        info: Any = self.client("ops").info("commandstats")
        counts = {name.removeprefix("cmdstat_"): int(told["rejected_calls"]) for name, told in info.items()}
        return {name: count for name, count in counts.items() if count}

    def errors(self) -> set[str]:
        """The kinds of errors that the server has answered with since it started."""
        info: Any = self.client("ops").info("errorstats")
        return {name.removeprefix("errorstat_") for name in info}


def server_command(directory: Path, binary: Path, data: Path, port: int) -> list[str]:
    """The compose file's own command, with the file of users as it is mounted, in a directory of this machine."""
    service = compose(directory)["services"]["redis"]
    [users] = [mount for mount in service["volumes"] if isinstance(mount, dict)]
    command = shlex.split(service["command"])
    assert command[0] == "valkey-server"
    here = {users["target"]: str(directory / users["source"])}
    options = [here.get(option, option) for option in command[1:]]
    assert options != command[1:]
    return [str(binary), *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]


@contextmanager
def composed(directory: Path, binary: Path, *more: str) -> Iterator[Composed]:
    """The compose file's server over an installation, with more options if need be; it may still be loading."""
    data, port = directory / "data", free_port()
    data.mkdir(exist_ok=True)
    with (directory / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [*server_command(directory, binary, data, port), *more], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield Composed(directory, binary, port)
        finally:
            server.kill()
            server.wait(HANGS_AFTER_S)


@contextmanager
def ready(directory: Path, binary: Path) -> Iterator[Composed]:
    """The server once it answers the worker's user."""
    with composed(directory, binary) as server:
        log = directory / "server.log"
        wait_until(lambda: answers(server.client("consumer")) or "abort" in log.read_text().lower(), log.read_text)
        assert answers(server.client("consumer")), log.read_text()
        yield server


def is_healthy(server: Composed, directory: Path) -> bool:
    """Whether the compose file's health check of the server passes, run with the environment of its container."""
    service = server.services["redis"]
    kind, command = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    tools = command_line_client(directory, server.port)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}"} | service["environment"]
    return subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, check=False).returncode == 0


def command_line_client(directory: Path, port: int) -> Path:
    """A directory with a `valkey-cli` that talks to the port: the machine's own, else one with the same words."""
    tools = directory / f"tools-{port}"
    tools.mkdir(exist_ok=True)
    real = shutil.which("valkey-cli") or shutil.which("redis-cli")
    command = shlex.join([real] if real else [sys.executable, str(Path(__file__).with_name("plain_cli.py"))])
    script = tools / "valkey-cli"
    script.write_text(f'#!/bin/sh\nexec {command} -p {port} "$@"\n')
    script.chmod(0o755)
    return tools


def start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process of ours with its log."""
    with log.open("ab") as told:
        return subprocess.Popen([sys.executable, "-m", "worker", *command], env=dict(environment), stderr=told)
