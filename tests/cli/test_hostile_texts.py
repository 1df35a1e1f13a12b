"""What producers write reaches an operator's terminal as signs only: nothing in it steers, hides or forges.

Hostile bytes go into every field that a producer controls, through the real streams and a real worker, and what every
command writes is read as a terminal would get it.
"""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
import typer.main
from loguru import logger
from rich.table import Table as RawTable

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, TRADES, bars, outcome, signal
from tests.support.real_processes import Installation
from worker.cli.main import cli, main
from worker.observability.logging import set_up_logging
from worker.observability.printable import printable, printable_json, printable_lines
from worker.observability.terminal import Table, console, print_block, print_line, styled

STEERS = (
    "\x1b]0;owned\x07",  # the window's title
    "\x1b]52;c;ZWNobyBvd25lZA==\x1b\\",  # the clipboard
    "\x1b[2J\x1b[H",  # clears the screen
    "\x9b2J",  # the same in one byte of C1
    "\r\x08\x7f",  # overwrites what stands there
    "\u202egnp.exe\u2066\u200f",  # turns what is read around
    "\u200b\ufeff\u00ad\U000e0041",  # is not seen
    "\n2026-11-27 FORGED all is well\u2028FORGED",  # another line
)
HOSTILE = "".join(STEERS) + "[red]:smile:"
#: Processes that run until they are stopped; their words are log lines, which are read below.
RUN_ON = {"up", "worker", "trainer", "console", "demo", "gateway"}


def unprintable(text: str) -> set[str]:
    return {sign for sign in text if not sign.isprintable() and sign != "\n"}


def with_hostile(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The event with each of its fields hostile, by value and by name, and those in its lists."""
    for name in event:
        yield event | {name: HOSTILE}
        yield event | {name: [HOSTILE]} | {f"{name}{HOSTILE}": 1}
        yield event | {name: {HOSTILE: HOSTILE}}
    yield event | {"news": [{"published_at": HOSTILE, "sentiment": 0.1, "source": HOSTILE, "headline": HOSTILE}]}
    yield event | {"features": {HOSTILE: 1.0}}
    yield event | {"schema_version": HOSTILE, "exit_reason": HOSTILE}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, valkey_server: Any) -> Iterator[Installation]:
    """An installation whose producers are hostile; what they sent has been handled."""
    base = tmp_path_factory.mktemp("hostile")
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        made = Installation(base / "var", valkey_server.url)
        with desk(settings_for(base / "var", valkey_server.url)) as worker:
            feed(client)
            worker.drain()
        yield made
        client.flushall()


def feed(client: redis.Redis) -> None:
    plain = signal(1, exit_reason="x", direction="long")
    for number, event in enumerate(with_hostile(plain), start=10):
        # A field of its own is hostile, so that the event gets as far as that field.
        send(client, SIGNALS, event | ({} if event["signal_id"] != "s-1" else {"signal_id": f"s-{number}"}))
    for event in with_hostile(outcome(1, return_pct=0.1, exit_reason="stop", revision=0)):
        send(client, TRADES, event)
    raw = HOSTILE.encode()
    for stream in (SIGNALS, TRADES):
        for data in (raw, b"\xff" + raw, b"[" + raw, orjson.dumps(HOSTILE), b'{"' + raw + b'":1}', b"\x1b[2J\xc2\x9b"):
            send(client, stream, data)
        client.xadd(stream, {raw: raw, b"\x1b\xff": b"\x9b"})
    late = bars()
    late["timestamp"][3] = HOSTILE  # type: ignore[call-overload]
    send(client, SIGNALS, signal(3, bars=late))
    # Symbols as far as the door lets them pass; a signal without bars is dead-lettered with its symbol in the words.
    for number, symbol in enumerate(("ACME", "A\u202eCME", "A[red]B", "A\x1b[2JB", "\u200bA"), start=400):
        send(client, SIGNALS, signal(number, symbol=symbol, bars=None))
    news = [{"published_at": plain["timestamp"], "sentiment": 0.5, "headline": HOSTILE, "source": HOSTILE}]
    send(client, SIGNALS, signal(2, news=news))
    send(client, TRADES, outcome(2, exit_reason=HOSTILE))


def commands(letters: int, files: Path) -> dict[str, list[tuple[str, ...]]]:
    """How every command is called here."""
    lines = files / "lines.jsonl"
    event = signal(900) | {"type": HOSTILE}
    lines.write_bytes(HOSTILE.encode() + b"\n" + orjson.dumps(event) + b"\n" + orjson.dumps({HOSTILE: 1}) + b"\n")
    past = files / "past.csv"
    past.write_text(f'timestamp,symbol,"{HOSTILE}"\n"{HOSTILE}","{HOSTILE}",1\n', encoding="utf-8")
    shown = sorted({*range(1, letters + 1, max(1, letters // 10)), letters})
    return {
        "status": [("status",)],
        "doctor": [("doctor",)],
        "adopt": [("adopt",)],
        "store upgrade": [("store", "upgrade")],
        "store copy": [("store", "copy", str(lines), "postgresql://nobody@localhost:1/none")],
        "store add-archive": [("store", "add-archive", str(lines))],
        "schema": [("schema",)],
        "asyncapi": [("asyncapi",)],
        "hash-password": [("hash-password",)],
        "publish": [("publish", str(lines)), ("publish", "--check", str(lines))],
        "import": [("import", "--check", str(past)), ("import", "--check", str(lines))],
        "notify": [("notify",)],
        "prune": [("prune", "--dry-run")],
        "backup": [("backup", str(files / "copy"))],
        "restore": [("restore", str(files / "nothing"))],
        "evaluate": [("evaluate", "--out", str(files))],
        "explain": [("explain", HOSTILE), ("explain", "s-2")],
        "tune": [("tune", "--trials", "1")],
        "label": [("label",)],
        "retrain": [("retrain",)],
        "models list": [("models", "list")],
        "models show": [("models", "show", HOSTILE)],
        "models compare": [("models", "compare"), ("models", "compare", HOSTILE, HOSTILE)],
        "models activate": [("models", "activate", HOSTILE)],
        "models rollback": [("models", "rollback")],
        "models pin": [("models", "pin", HOSTILE)],
        "models unpin": [("models", "unpin")],
        "models history": [("models", "history")],
        "features": [("features",)],
        "features missing": [("features", "missing")],
        "features rebuild": [("features", "rebuild", "--force")],
        "dead-letters list": [
            ("dead-letters", "list", "--limit", "1000"),
            ("dead-letters", "list", "--groups"),
            ("dead-letters", "list", "--symbol", HOSTILE),
        ],
        "dead-letters show": [("dead-letters", "show", str(number)) for number in shown],
        "dead-letters export": [("dead-letters", "export", "-")],
        "dead-letters edit": [("dead-letters", "edit", str(shown[0]), "--file", str(lines))],
        "dead-letters discard": [("dead-letters", "discard", str(shown[1]), "--reason", HOSTILE)],
        "dead-letters replay": [("dead-letters", "replay", str(shown[2]), "--wait", "0")],
    }


def leaves(group: Any, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            if command.invoke_without_command:
                yield above + name
            yield from leaves(command, f"{above}{name} ")
        else:
            yield above + name


@pytest.fixture
def called(
    place: Installation, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., str]:
    """Calls the command as its entry point does; what it wrote to both streams."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["refinery", *arguments])
        capfdbinary.readouterr()
        with suppress(SystemExit):
            main()
        sys.stdout.flush()
        return b"".join(capfdbinary.readouterr()).decode()

    return call


def test_no_command_writes_a_producers_bytes_raw(called: Callable[..., str], tmp_path: Path) -> None:
    letters = json.loads(called("dead-letters", "list", "--limit", "1000", "--json"))
    listed = commands(len(letters), tmp_path)
    assert {*listed, *RUN_ON} == {*leaves(typer.main.get_command(cli))}, "a command is missing here"
    said = ""
    for name, ways in listed.items():
        for way in ways:
            text = called(*way)
            assert not unprintable(text), (name, unprintable(text))
            assert not re.search(r"^2026-11-27 FORGED", text, re.MULTILINE), name
            said += text
    assert r"\x1b]0;owned\x07" in said
    assert r"\u202egnp.exe" in said
    assert "[red]" in said
    assert ":smile:" in said


def test_json_says_exactly_what_came(place: Installation) -> None:
    rows = place.document("dead-letters", "list", "--limit", "1000")
    assert HOSTILE in {row["symbol"] for row in rows if row["symbol"]} | {row["signal_id"] for row in rows}
    [number] = [row["id"] for row in rows if row["symbol"] == HOSTILE][:1]
    shown = place.run("dead-letters", "show", str(number), "--json").stdout
    assert not unprintable(shown.decode())
    assert json.loads(json.loads(shown)["payload_text"])["symbol"] == HOSTILE
    exported = place.run("dead-letters", "export", "-").stdout.decode()
    assert not unprintable(exported)
    [line] = [one for one in map(json.loads, exported.splitlines()) if one["id"] == number]
    assert line["symbol"] == HOSTILE


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_log_line_has_them_raw(tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str) -> None:
    set_up_logging(settings_for(tmp_path / "var", "redis://localhost", log_format=form))
    capfd.readouterr()
    logger.warning("the market-data directory has no {}", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        logger.opt(exception=error).error("failed: {!s}", error)
    logged = capfd.readouterr().err
    assert not unprintable(logged)
    if form == "json":
        told = [json.loads(line)["record"]["message"] for line in logged.splitlines()]
        assert told == [f"the market-data directory has no {HOSTILE}", f"failed: {HOSTILE}"]
    else:
        assert sum(bool(re.match(r"\d\d:\d\d:", line)) for line in logged.splitlines()) == 2
        assert logged.count(r"\x1b]0;owned\x07") == 3
        assert not re.search(r"^2026-11-27 FORGED", logged, re.MULTILINE)


def test_a_table_takes_strings_as_data_and_whatever_passes_by_it_is_written_out_at_the_end() -> None:
    file = io.StringIO()
    ours = Table("head", box=None)
    ours.add_row(HOSTILE)
    console(file).print(ours)
    raw = RawTable("head", box=None)
    raw.add_row("\x1b[2J\u202e")
    console(file).print(raw)
    console(file).print("\x1b[2J\u202e", markup=False)
    print_line(file, HOSTILE)
    print_line(file, styled("[bold]{}[/]", HOSTILE))
    print_block(file, HOSTILE)
    assert not unprintable(file.getvalue())
    assert file.getvalue().count(r"\x1b[2J") == 6
    assert all(line.startswith("  ") for line in file.getvalue().splitlines()[-2:])


def test_our_own_colours_stay_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    print_line(file, styled("[red]{}[/]", "\x1b[32mgreen"))
    assert file.getvalue() == "\x1b[31m\\x1b[32mgreen\x1b[0m\n"


def test_what_is_written_out_is_read_back_from_json_and_by_people() -> None:
    assert printable("Zürich 東京 🙂") == "Zürich 東京 🙂"
    assert printable("a\tb\nc\x9b\u202e\U000e0041") == r"a\tb\nc\x9b\u202e\U000e0041"
    assert printable_lines("a\n\tb\r\n") == "a\n    b\\r\n"
    for text in (*STEERS, HOSTILE, "Zürich 🙂"):
        written = printable_json(orjson.dumps({text: [text]}).decode())
        assert json.loads(written) == {text: [text]}
        assert written.isprintable()
