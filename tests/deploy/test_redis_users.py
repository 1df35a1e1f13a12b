"""Redis's users: a real server starts with the very file, each role does all of its work, and nothing else."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.composed import (
    ROOT,
    Composed,
    composed,
    documented_commands,
    install,
    is_healthy,
    ready,
    servers,
    variables,
)
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES
from tests.support.waiting import wait_until
from worker.redis_server.binary import find_server

OF_NO_REDIS_USER = (
    "CONSOLE_OPERATOR_PASSWORD=oooooooooooooooo\nCONSOLE_VIEWER_PASSWORD=vvvvvvvvvvvvvvvv\n"
    "GRAFANA_ADMIN_PASSWORD=gggggggggggggggg\nPOSTGRES_PASSWORD=pppppppppppppppp\n"
)


@pytest.fixture(scope="module", params=servers(), ids=lambda path: path.name)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    with ready(install(tmp_path_factory.mktemp("guarded")), request.param) as server:
        yield server


@pytest.mark.parametrize("binary", servers(), ids=lambda path: path.name)
def test_a_server_starts_with_the_example_as_it_is_copied(binary: Path, tmp_path: Path) -> None:
    directory = install(tmp_path)
    example = (ROOT / "deploy" / "redis" / "users.acl.example").read_bytes()
    (directory / "deploy" / "redis" / "users.acl").write_bytes(example)
    names = re.findall(rb"^user (\w+) on >(\w+) ", example, re.M)
    assert {name for name, _ in names} == {b"producer", b"scores", b"consumer", b"ops"}
    passwords = "".join(f"{word}={word}\n" for word in (name.decode() for _, name in names))
    (directory / ".env").write_text(passwords + OF_NO_REDIS_USER)
    with ready(directory, binary) as server:
        assert server.client("ops").info("server")


def test_every_part_gets_a_password_of_its_own_and_redis_reads_none_of_them(tmp_path: Path) -> None:
    directory = install(tmp_path)
    passwords = [value for name, value in variables(directory).items() if name.endswith("_PASSWORD")]
    assert len(set(passwords)) == len(passwords) == 8
    assert min(map(len, passwords)) >= 32
    users = directory / "deploy" / "redis" / "users.acl"
    assert not any(password in users.read_text() for password in passwords)
    assert stat.S_IMODE((directory / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE(users.stat().st_mode) == 0o644, "the server is another user in its container"


def test_passwords_that_are_set_are_kept_and_emptied_ones_made_anew(tmp_path: Path) -> None:
    directory = install(tmp_path)
    before = variables(directory)
    text = (
        (directory / ".env").read_text().replace(before["OPS_PASSWORD"], "").replace(before["SCORES_PASSWORD"], "mine1")
    )
    (directory / ".env").write_text(text)
    subprocess.run(documented_commands(0)[0].split(), cwd=directory, check=True, capture_output=True)
    after = variables(directory)
    assert after["OPS_PASSWORD"] not in ("", before["OPS_PASSWORD"])
    assert {**after, "OPS_PASSWORD": ""} == {**before, "OPS_PASSWORD": "", "SCORES_PASSWORD": "mine1"}
    with ready(directory, find_server()) as server:
        assert server.client("scores").ping()
        assert server.client("ops").ping()


def test_a_password_that_breaks_an_address_is_refused(tmp_path: Path) -> None:
    directory = install(tmp_path)
    path = directory / ".env"
    path.write_text(path.read_text().replace(variables(directory)["OPS_PASSWORD"], "p@ss/word"))
    done = subprocess.run(documented_commands(0)[0].split(), cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OPS_PASSWORD" in done.stderr


def test_the_server_is_healthy_when_the_worker_can_use_it(guarded: Composed, tmp_path: Path) -> None:
    assert is_healthy(guarded, tmp_path)


def test_a_server_that_the_worker_cannot_sign_in_to_is_not_healthy(tmp_path: Path) -> None:
    directory = install(tmp_path)
    with ready(directory, find_server()) as server:
        env = directory / ".env"
        env.write_text(env.read_text().replace(server.password("consumer"), "another"))
        assert not is_healthy(server, tmp_path)


@pytest.mark.parametrize("binary", servers(), ids=lambda path: path.name)
def test_a_server_that_loads_its_data_is_not_healthy(binary: Path, tmp_path: Path) -> None:
    directory = install(tmp_path)
    with ready(directory, binary) as server, server.client("producer").pipeline(transaction=False) as pipe:
        for _ in range(150_000):
            pipe.xadd(SIGNALS, {"data": b"x"})
        pipe.execute()
    # It answers between every 1,024 entries that it loads; the pause is for each, in microseconds.
    with composed(directory, binary, "--key-load-delay", "200") as server:
        wait_until(lambda: answer(server, "consumer") == "LOADING")
        assert answer(server, None) == "NOAUTH", "what says nothing about the data"
        healthy = is_healthy(server, tmp_path)
        assert answer(server, "consumer") == "LOADING", "the check was made while it loaded"
        assert not healthy


def answer(server: Composed, user: str | None) -> str:
    """PONG, or the code of the error, or that there is no server yet."""
    try:
        with redis.Redis(port=server.port) if user is None else server.client(user) as client:
            client.ping()
    except redis.BusyLoadingError:
        return "LOADING"
    except redis.AuthenticationError:
        return "NOAUTH"
    except redis.ConnectionError:
        return "away"
    return "PONG"


REFUSED = {
    "producer": [
        f"XADD {SCORES} * data x", "XADD {r0}.signals.scored * data x", "XREAD STREAMS {r0}.signals.created 0",
        "CLUSTER RESET", "XADD mine * data x", "XADD rq:queue:refinery-retrain * data x",
        f"XRANGE {SIGNALS} - +", f"XREAD STREAMS {SIGNALS} 0", f"XLEN {SIGNALS}", f"XTRIM {SIGNALS} MAXLEN 0",
        f"XDEL {SIGNALS} 1-1", f"DEL {SIGNALS}", f"UNLINK {TRADES}", f"XGROUP CREATE {SIGNALS} g 0 MKSTREAM",
        f"RENAME {SIGNALS} x", f"SET {SIGNALS} x", f"EXPIRE {SIGNALS} 1", "EVAL return 0", "KEYS *", "SCAN 0",
        "CONFIG GET *", "CONFIG SET maxmemory 1", "INFO", "FLUSHALL", "FLUSHDB", "SHUTDOWN", "CLIENT LIST",
        "CLIENT KILL TYPE normal", "ACL LIST", "ACL SETUSER producer +@all", "PUBLISH rq:pubsub:worker shutdown",
        "SUBSCRIBE rq:pubsub:worker", "MONITOR", "REPLICAOF 127.0.0.1 1", "SWAPDB 0 1",
    ],
    "scores": [
        f"XADD {SCORES} * data x", f"XDEL {SCORES} 1-1", f"XTRIM {SCORES} MAXLEN 0", f"DEL {SCORES}", f"SET {SCORES} x",
        f"RENAME {SCORES} x", f"EXPIRE {SCORES} 1", f"XADD {SIGNALS} * data x", f"XRANGE {SIGNALS} - +",
        f"XREVRANGE {TRADES} + -", f"XREAD STREAMS {SIGNALS} 0", "HGETALL rq:job:1", "KEYS *", "CONFIG GET *", "INFO",
        "FLUSHALL", "SHUTDOWN", "EVAL return 0", "ACL LIST", "CLIENT KILL TYPE normal", "SUBSCRIBE rq:pubsub:worker",
        "PUBLISH rq:pubsub:worker shutdown", "MONITOR",
    ],
    "consumer": [
        f"DEL {SIGNALS}", f"UNLINK {TRADES}", f"RENAME {SCORES} x", f"SET {SIGNALS} x", f"EXPIRE {SCORES} 1",
        f"COPY {SIGNALS} mine", f"XDEL {SIGNALS} 1-1", f"XSETID {SIGNALS} 9-9", "SET mine x", "GET mine", "FLUSHALL",
        "FLUSHDB", "SWAPDB 0 1", "SHUTDOWN", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "ACL SETUSER consumer +@all",
        "ACL LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "MONITOR", "REPLICAOF 127.0.0.1 1",
        "SET {r0}.signals.created x", "XDEL {r0}.signals.scored 1-1", "CLUSTER RESET",
        "SAVE", "BGREWRITEAOF", "MODULE LIST", "MIGRATE 127.0.0.1 1 x 0 1", "PUBLISH other x", "KEYS *",
    ],
    "ops": [
        f"XADD {SCORES} * data x", "XADD mine * data x", f"XDEL {SIGNALS} 1-1", f"XTRIM {SIGNALS} MAXLEN 0",
        f"DEL {SIGNALS}", f"XACK {SIGNALS} {GROUP} 1-1", f"XGROUP DESTROY {SIGNALS} {GROUP}",
        f"XREADGROUP GROUP {GROUP} ops STREAMS {SIGNALS} >",
        "XADD {r0}.signals.scored * data x", "CLUSTER RESET", "SET mine x", "DEL rq:queues", "LPUSH rq:queue:x y",
        "RPUSH rq:queue:refinery-retrain y", "FLUSHALL", "FLUSHDB", "SHUTDOWN", "CONFIG SET maxmemory 1",
        "ACL SETUSER ops +@all",
        "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "PUBLISH rq:pubsub:worker shutdown", "SLOWLOG RESET",
        "LATENCY RESET", "MEMORY PURGE", "EVAL return 0", "MONITOR", "SCRIPT FLUSH",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("user", "command"), [(user, words) for user, table in REFUSED.items() for words in table])
def test_a_role_is_refused_what_is_not_its_work(guarded: Composed, user: str, command: str) -> None:
    words = command.replace("EVAL return 0", "EVAL|return 0|0").split("|") if "EVAL" in command else command.split()
    with guarded.client(user) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*words)


def test_who_does_not_sign_in_may_do_nothing(guarded: Composed) -> None:
    for url in (f"redis://127.0.0.1:{guarded.port}", f"redis://consumer:wrong@127.0.0.1:{guarded.port}"):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
