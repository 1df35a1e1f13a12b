"""Every option and argument of every command, with values that it is not meant for: one line, and 1 or 2."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import typer.main

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS
from tests.support.real_processes import QUIET
from worker.cli.main import cli, main

#: Meant for none of the types, or for one of them and beyond what it can be.
WRONG = ("9" * 40, "-1", "nan", "", "\x1b[2J\nforged", "\udcff", "/")
#: They go on until they are stopped, so with them only what the command line itself refuses is looked at.
SERVING = {"up", "worker", "trainer", "gateway", "console", "demo"}
HANGS_AFTER_S = 120.0


class Ended(NamedTuple):
    code: int | None
    out: str
    err: str


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(cli)))


def asked(command: Any, wrong: Any, value: str) -> list[str]:
    """Arguments in which one parameter is wrong, and those that have to be there say something that fits."""
    options, operands = [], []
    for parameter in command.params:
        if parameter is wrong or parameter.required:
            said = value if parameter is wrong else "1"
            if parameter.param_type_name == "option":
                options.append(f"{parameter.opts[0]}={said}")
            else:
                operands.append(said)
    return [*options, *(["--", *operands] if operands else [])]


def run(arguments: list[str], environment: dict[str, str], scratch: Path) -> Ended:
    """The command in a child of this process, which has imported it already; no code where it did not end."""
    out, err = scratch / "out", scratch / "err"
    child = os.fork()
    if child == 0:
        os._exit(_as_command(arguments, environment, scratch, out, err))
    watched = os.pidfd_open(child)
    in_time = bool(select.select([watched], [], [], HANGS_AFTER_S)[0])
    os.close(watched)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code if in_time else None, out.read_text(errors="replace"), err.read_text(errors="replace"))


def _as_command(arguments: list[str], environment: dict[str, str], scratch: Path, out: Path, err: Path) -> int:
    try:
        for number, file in enumerate(("/dev/null", out, err)):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "rww"[number]) for number in range(3))
        os.environ.update(environment)
        os.chdir(scratch)
        sys.argv = ["refinery", *arguments]
        main()
        return 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, a user would see its traceback
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@pytest.fixture
def environment(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> dict[str, str]:
    """An installation with a dead letter."""
    settings = settings_for(tmp_path / "var", valkey_url)
    send(valkey, SIGNALS, b"{")
    with desk(settings) as worker:
        worker.drain()
    own = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": valkey_url, "EDITOR": "false"}
    return QUIET | own


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_wrong_value_is_one_line(path: tuple[str, ...], environment: dict[str, str], tmp_path: Path) -> None:
    command, faults = COMMANDS[path], []
    if path[0] in SERVING:
        environment = environment | {"REFINERY_LOG_FORMAT": "none such"}  # nothing of theirs begins
    for parameter in command.params:
        for value in () if getattr(parameter, "is_flag", False) else WRONG:
            arguments = [*path, *asked(command, parameter, value)]
            done = run(arguments, environment, tmp_path)
            errors = [line for line in done.err.splitlines() if line.strip()]
            told = done.code == 0 or (done.code == 1 and len(errors) == 1) or (done.code == 2 and len(errors) <= 4)
            if not told or "Traceback" in done.err or "\x1b" in done.err or "forged" in errors:
                faults.append(f"{arguments} -> {done.code}: {done.err[-500:]}")
    assert not faults, f"{len(faults)} of them\n" + "\n".join(faults)


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize("command", ["list", "replay --all", "discard --all --reason=x", "export -"])
@pytest.mark.parametrize("value", ["yesterday", "9999-99-99", "2026", "1767225600"])
def test_what_is_no_time_is_said_to_be_none(
    value: str, command: str, option: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(["dead-letters", *command.split(), f"{option}={value}"], environment, tmp_path)
    assert done.code == 2
    assert f"'{option}'" in done.err
    assert value in done.err
    assert "2026-03-01" in done.err


@pytest.mark.parametrize("editor", ["false", "/nonexistent/editor", "", "sh -c 'kill -9 $$'"])
def test_an_editor_that_fails_or_is_not_there_changes_nothing(
    editor: str, environment: dict[str, str], tmp_path: Path
) -> None:
    there = environment | {"EDITOR": editor, "VISUAL": editor} | ({} if editor else {"PATH": str(tmp_path)})
    done = run(["dead-letters", "edit", "1"], there, tmp_path)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "--file" in done.err
    assert run(["dead-letters", "show", "1"], environment, tmp_path).out.count("edit") == 0


def test_a_file_that_is_not_there_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(["dead-letters", "edit", "1", "--file=gone.json"], environment, tmp_path)
    assert done.code == 1
    assert done.err == "refinery: gone.json: No such file or directory\n"


@pytest.mark.parametrize(
    "command",
    [
        "dead-letters list", "dead-letters show 1", "dead-letters replay 1", "dead-letters discard 1 --reason=x",
        "dead-letters edit 1 --file=-", "dead-letters export -", "models list", "models show x", "models history",
        "models compare x y", "models activate x", "models rollback", "models pin x", "models unpin", "evaluate",
        "tune", "explain x", "label", "features missing", "features rebuild", "prune", "retrain",
    ],
)  # fmt: skip
def test_a_command_in_the_wrong_place_says_so_and_begins_no_store(
    command: str, environment: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    done = run(command.split(), environment | {"REFINERY_STATE_DIR": str(elsewhere)}, tmp_path)
    assert done.code == 1, done
    assert f"no store at {elsewhere}/features.db" in done.err
    assert len(done.err.splitlines()) == 1
    assert not (elsewhere / "features.db").exists()


def test_a_status_in_the_wrong_place_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(["status"], environment | {"REFINERY_STATE_DIR": str(tmp_path / "elsewhere")}, tmp_path)
    assert done.code == 0
    assert f"no store at {tmp_path}/elsewhere/features.db" in done.err + done.out
