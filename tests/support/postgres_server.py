"""A PostgreSQL of the tests' own: on a socket in a directory, as a user that is not root, gone with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest

#: Where distributions keep what is not in PATH, the newest release first.
_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -int(place.parent.name))
ROLE = "refinery"
DATABASE = "refinery"


def programs() -> Path | None:
    """The directory with PostgreSQL's programs, or None."""
    for place in _PLACES:
        if (place / "initdb").exists():
            return place
    found = shutil.which("initdb")
    return Path(found).parent if found else None


#: For tests that need a PostgreSQL. In CI there is one, and none of them is left out.
needs_postgres = pytest.mark.skipif(
    programs() is None and not os.environ.get("CI"), reason="there is no PostgreSQL here"
)

#: Parameters for tests that hold for a store in either engine.
EITHER_ENGINE = ("sqlite", pytest.param("postgresql", marks=needs_postgres))


class PostgresServer:
    """One server. `settings` are lines of its configuration beside ours; without any it syncs every commit.

    With `standby_of` it is a copy of that one, which follows it. `port` is part of its socket's name, and where it
    listens if a setting says so.
    """

    def __init__(self, *settings: str, standby_of: PostgresServer | None = None, port: int = 5432) -> None:
        found = programs()
        assert found is not None, "PostgreSQL's server is not installed"
        self.programs = found
        self.directory = Path(tempfile.mkdtemp(prefix="pg"))
        self._settings = settings
        self._primary = standby_of
        self.port = port
        self._user = _server_user()
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)

    def __enter__(self) -> Self:
        return self.begun()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def begun(self) -> Self:
        """The server, whose files are made, and which runs."""
        if self._primary is not None:
            source = str(self._primary.directory)
            self._run(
                "pg_basebackup",
                "-h",
                source,
                "-p",
                str(self._primary.port),
                "-U",
                "postgres",
                "-D",
                str(self.data),
                "-R",
                "-c",
                "fast",
                "-X",
                "stream",
            )
            self._configure()
            self.start()
            return self
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N")
        self._configure()
        self.start()
        self.run_sql(f"CREATE ROLE {ROLE} LOGIN")
        self.run_sql(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        return self

    def remove(self) -> None:
        """Crash it, and remove its files."""
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _configure(self) -> None:
        lines = [
            "listen_addresses = ''",
            f"port = {self.port}",
            f"unix_socket_directories = '{self.directory}'",
            # So that the memory of one that is killed goes with its files.
            "dynamic_shared_memory_type = mmap",
            *self._settings,
        ]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["", *lines, ""]))

    @property
    def data(self) -> Path:
        """Its files."""
        return self.directory / "data"

    def url(self, schema: str = "signal_refinery", **options: str) -> str:
        """The address of a schema in the database of the tests."""
        more = "".join(f"&{name}={quote(value)}" for name, value in options.items())
        return (
            f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.directory))}&port={self.port}&schema={schema}{more}"
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.directory / "log"), "-w", "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast`, or `immediate`, which is a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-m", how, "-w", "stop", check=False)

    def promote(self) -> None:
        """Have a standby take over, and wait until it takes writes."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def kill(self) -> None:
        """Kill its first process without a word; its children follow when they notice."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def run_sql(self, sql: str, *, database: str = "postgres") -> str:
        """What a statement of the superuser prints."""
        return self._run(
            "psql", "-h", str(self.directory), "-p", str(self.port), "-U", "postgres", "-d", database, "-Atqc", sql
        )

    def start_beside(self, command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
        """Another program as the same user, with a directory that is given to it."""
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (directory, *directory.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid)
        return subprocess.Popen(
            command, user=self._user, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _run(self, program: str, *arguments: str, check: bool = True) -> str:
        # What pg_ctl starts would keep a pipe open.
        output = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, user=self._user, cwd=self.directory, check=False, stdout=output, stderr=output, text=True
        )
        assert done.returncode == 0 or not check, f"{program}: {done.stderr or (self.directory / 'log').read_text()}"
        return (done.stdout or "").strip()


def _server_user() -> str | None:
    """Whom the server runs as where the tests run as root, which it refuses; None: as whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    return next(name for name in ("postgres", "nobody") if any(user.pw_name == name for user in pwd.getpwall()))
