"""The command line as a person and a script meet it: real processes, a real server, exit codes and documents."""

from __future__ import annotations

import base64
import json
import os
import re
import signal as signals
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.desk import scored
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.labels import label
from tests.support.real_processes import QUIET, REFINERY, Installation
from tests.support.waiting import HANGS_AFTER_S, answers, wait_until
from worker.installation import open_store
from worker.settings.schema import load_settings


def lines(events: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    return b"".join(orjson.dumps({"type": kind, **event}) + b"\n" for kind, event in events)


def test_events_go_in_through_publish_and_the_status_tells_what_became_of_them(
    installation: Installation, running: Callable[[str], subprocess.Popen[bytes]], valkey: redis.Redis
) -> None:
    events = [("signal.created", signal(n)) for n in range(5)] + [("trade.closed", outcome(n)) for n in range(4)]
    doubled = lines([("signal.created", signal(9, features={"edge": 1}))]).replace(b'"edge"', b'"edge":2,"edge"')
    done = installation.run("publish", "-", "--json", stdin=lines(events) + b"\nnot json\n" + doubled)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"published": 9, "refused": 2}
    assert b"line 11: bad_json" in done.stderr
    assert b"line 12: duplicate_key" in done.stderr

    worker = running("worker")
    wait_until(lambda: len(scored(valkey)) == 5)
    wait_until(lambda: installation.document("status")["labelled"] == 4)
    status = installation.document("status")
    expected = {"signals": 5, "labelled": 4, "predictions": 0, "pending": 0, "lag": 0, "dead_letters": 0}
    expected |= {"new_labels": 4, "champion": None, "proven": False, "last_training": None}
    assert {name: status[name] for name in expected} == expected

    worker.send_signal(signals.SIGTERM)
    assert worker.wait(HANGS_AFTER_S) == 0
    assert b"4 of 20" in installation.run("status").stdout


def test_what_the_worker_would_refuse_is_not_sent_and_says_why(installation: Installation, valkey: redis.Redis) -> None:
    wrong = signal(2, technical_score=11.5, direction="up")
    given = lines([("signal.created", signal(1)), ("signal.created", wrong), ("trade.closed", outcome(1))])
    done = installation.run("publish", "-", stdin=given)
    assert (done.returncode, done.stdout) == (1, b"2 events published; 1 line refused\n")
    said = "line 2: schema: direction: must be 'long' or 'short', and is \"up\"; technical_score: must be at most 10"
    assert said in done.stderr.decode()
    assert (valkey.xlen(SIGNALS), valkey.xlen(TRADES)) == (1, 1)
    done = installation.run("publish", "--no-check", "-", stdin=given)
    assert (done.returncode, done.stdout) == (0, b"3 events published; 0 lines refused\n")
    assert (valkey.xlen(SIGNALS), valkey.xlen(TRADES)) == (3, 2)


def test_a_check_publishes_nothing_and_needs_no_server(installation: Installation, valkey: redis.Redis) -> None:
    given = lines([("signal.created", signal(1)), ("trade.closed", outcome(1, r_multiple=5000))])
    nobody = {"REFINERY_REDIS_URL": f"unix://{installation.state_dir}/nobody.sock"}
    done = installation.run("publish", "--check", "-", stdin=given, **nobody)
    assert (done.returncode, done.stdout) == (1, b"1 event valid, nothing was published; 1 line refused\n")
    assert b"line 2: bad_number: r_multiple: more than 1000 in size, and is 5000" in done.stderr
    assert json.loads(installation.run("publish", "--check", "--json", "-", stdin=given, **nobody).stdout) == {
        "valid": 1,
        "refused": 1,
    }
    assert valkey.xlen(SIGNALS) == 0
    assert installation.run("publish", "--check", "--no-check", "-", stdin=given).returncode == 2


def test_a_byte_order_mark_costs_no_event_and_an_array_is_refused_at_once(
    installation: Installation, valkey: redis.Redis
) -> None:
    events = lines([("signal.created", signal(1)), ("trade.closed", outcome(1))])
    done = installation.run("publish", "-", "--json", stdin=b"\xef\xbb\xbf" + events)
    assert json.loads(done.stdout) == {"published": 2, "refused": 0}
    array = b"\xef\xbb\xbf\n[\n" + b",\n".join(events.splitlines()) + b"\n]\n"
    done = installation.run("publish", "-", stdin=array)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"a JSON array" in done.stderr
    assert valkey.xlen(SIGNALS) == 1


def test_a_dead_letter_is_listed_shown_with_its_bytes_and_replayed(
    installation: Installation, running: Callable[[str], subprocess.Popen[bytes]], valkey: redis.Redis
) -> None:
    running("worker")
    valkey.xadd(SIGNALS, {"data": b'{"signal_id": "s-1"}'})
    wait_until(lambda: installation.document("status")["dead_letters"] == 1)
    [letter] = installation.document("dead-letters", "list")
    wanted = {"id", "stream", "entry_id", "reason", "error", "attempts", "first_seen", "signal_id"}
    assert wanted <= letter.keys()
    assert (letter["stream"], letter["reason"], letter["signal_id"]) == (SIGNALS, "schema", "s-1")
    shown = installation.document("dead-letters", "show", str(letter["id"]))
    assert base64.b64decode(shown["payload_base64"]) == b'{"signal_id": "s-1"}'

    assert installation.run("dead-letters", "replay", str(letter["id"])).returncode == 0
    wait_until(lambda: [row["id"] for row in installation.document("dead-letters", "list")] not in ([], [letter["id"]]))
    [again] = installation.document("dead-letters", "list")
    assert again["replay_of"] == letter["id"]


def test_asking_for_a_training_says_what_is_missing_or_why_it_failed_and_then_exits_with_1(
    installation: Installation, running: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    open_store(load_settings(state_dir=installation.state_dir)).close()
    running("trainer")
    done = installation.run("retrain", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["verdict"], answer["reason"]) == ("completed", "hold", "0 of 100 samples")
    shown = installation.run("status").stdout.decode()
    assert "too few samples: nothing was trained; 0 of 100 samples" in shown
    assert "0 of 20 new labels until the next job; 0 of 100 samples until the first model" in shown

    settings = load_settings(state_dir=installation.state_dir)
    with open_store(settings) as store:
        label(store, settings, 19, win_rate=1.0)
    status = installation.document("status")
    assert {name: status[name] for name in ("new_labels", "samples", "min_samples", "due")} == {
        "new_labels": 19,
        "samples": 19,
        "min_samples": 100,
        "due": None,
    }
    with open_store(settings) as store:
        label(store, settings, 101, first=19, win_rate=1.0)
    done = installation.run("retrain", "--wait", "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["reason"]) == ("failed", "one_class: all 120 trades won")
    assert installation.document("status")["last_training"]["reason"] == answer["reason"]


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["status"], {"REFINERY_BATCH_SIZE": "many"}, b"REFINERY_BATCH_SIZE"),
        (["status"], {"REFINERY_BATCHSIZE": "1"}, b"REFINERY_BATCH_SIZE"),
        (["models", "show", "nothing"], {}, b"nothing"),
        (["models", "activate", "nothing"], {}, b"nothing"),
        (["dead-letters", "show", "7"], {}, b"7"),
        (["dead-letters", "replay", "7"], {}, b"7"),
    ],
)
def test_a_failure_is_one_line_that_names_what_is_wrong_and_exit_code_1(
    installation: Installation, arguments: list[str], environment: dict[str, str], says: bytes
) -> None:
    open_store(load_settings(state_dir=installation.state_dir)).close()
    done = installation.run(*arguments, **environment)
    assert done.returncode == 1
    assert says in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("arguments", [["bogus"], ["schema", "bogus"], ["dead-letters", "replay"], ["publish"]])
def test_wrong_usage_exits_with_2(installation: Installation, arguments: list[str]) -> None:
    assert installation.run(*arguments).returncode == 2


def test_the_schema_of_every_event_is_printed(installation: Installation) -> None:
    done = installation.run("schema")
    assert set(json.loads(done.stdout)) == {"signal.created", "trade.closed", "signal.scored"}
    assert json.loads(installation.run("schema", "trade.closed").stdout)["title"] == "trade.closed"


def test_up_runs_worker_and_trainer_and_one_signal_ends_them_all(state_dir: Path) -> None:
    environment = {**os.environ, **QUIET, "REFINERY_STATE_DIR": str(state_dir)}
    up = subprocess.Popen([*REFINERY, "up"], env=environment, stderr=subprocess.PIPE)
    try:
        socket = state_dir / "valkey" / "valkey.sock"
        wait_until(socket.exists)
        with redis.Redis(unix_socket_path=str(socket)) as client:
            wait_until(lambda: answers(client))
            client.xadd(SIGNALS, {"data": orjson.dumps(signal(1))})
            wait_until(lambda: len(scored(client)) == 1)
            wait_until(lambda: bool(client.smembers("rq:workers")))
    finally:
        up.send_signal(signals.SIGINT)
        _, said = up.communicate(timeout=HANGS_AFTER_S)
    assert up.returncode == 0, said.decode()
    assert not socket.exists()
    assert _processes_of(state_dir) == []


def test_every_command_of_the_readme_exists_and_every_command_is_in_the_readme(installation: Installation) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    named = set(re.findall(r"`refinery ([a-z-]+)", readme)) | set(
        re.findall(r"`refinery [a-z]+`, `refinery ([a-z]+)`", readme)
    )
    listed = installation.run("--help").stdout.decode().split("Commands:")[1]
    there = {line.split()[0] for line in listed.splitlines() if re.match(r"^  [a-z]", line)}
    assert named == there


def _processes_of(state_dir: Path) -> list[str]:
    """Command lines of what still runs with this state directory in its environment or arguments."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        about = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("REFINERY_STATE_DIR", "")]
        if process.pid != os.getpid() and any(str(state_dir) in part for part in about):
            found.append(" ".join(process.info["cmdline"] or []))
    return found
