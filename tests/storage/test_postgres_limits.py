"""What a server of PostgreSQL may be short of, and what may stand before it: a pause each, or a refusal in words."""

from __future__ import annotations

import os
import shutil
import signal as signals
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.composed import free_port
from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome as closed, signal
from tests.support.postgres_server import DATABASE, ROLE, PostgresServer, needs_postgres
from tests.support.processes import fork
from tests.support.rows import outcome, plain
from tests.support.small_disk import SmallDisk
from tests.support.waiting import join, wait_until
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase, StoreError, StoreUnavailable
from trading_system.ml_refinement.storage.errors import StoreRefused
from trading_system.ml_refinement.storage.postgres import connection

pytestmark = needs_postgres


def stored(db: FeatureDatabase) -> list[str]:
    return [row[0] for row in db._connection.query("SELECT signal_id FROM feature_vectors ORDER BY id")]


def insert(db: FeatureDatabase, signal_id: str) -> None:
    with db.atomic():
        db.store_feature_vector(plain(signal_id))


def test_a_server_without_connections_left_is_waited_for() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(
            PostgresServer("fsync = off", "max_connections = 4", "superuser_reserved_connections = 2")
        )
        first, second, third = [stack.enter_context(closing(FeatureDatabase(server.url()))) for _ in "123"]
        first.upgrade()
        assert stored(second) == []
        with pytest.raises(StoreUnavailable, match="connection"):
            stored(third)
        second.close()

        def taken() -> bool:
            with suppress(StoreUnavailable):
                insert(third, "a")
                return True
            return False

        wait_until(taken)
        assert stored(first) == ["a"]


def test_a_transaction_that_the_server_found_idle_is_not_kept_by_half(
    postgres_store: FeatureDatabase, postgres_server: PostgresServer
) -> None:
    postgres_store._connection.run("SET idle_in_transaction_session_timeout = 100")

    def unit_of_work() -> None:
        with postgres_store.atomic():
            insert(postgres_store, "a")
            time.sleep(0.5)
            insert(postgres_store, "b")

    with pytest.raises(StoreUnavailable):
        unit_of_work()
    insert(postgres_store, "c")
    assert stored(postgres_store) == ["c"]


def test_a_writer_that_stands_still_inside_a_transaction_does_not_keep_the_others_out(
    postgres_store: FeatureDatabase, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_IDLE_WRITER_MS", 500)
    monkeypatch.setattr(connection, "_LOCK_WAIT_MS", 100)

    def stands_still() -> None:
        def unit_of_work() -> None:
            with own.atomic():
                insert(own, "a")
                signals.pthread_kill(threading.get_ident(), signals.SIGSTOP)
                insert(own, "b")

        with closing(FeatureDatabase(postgres_url)) as own, pytest.raises(StoreUnavailable):
            unit_of_work()

    def goes_on() -> bool:
        with suppress(StoreUnavailable):
            insert(postgres_store, "c")
        return stored(postgres_store) == ["c"]

    pid = fork(stands_still)
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        wait_until(goes_on)
    except BaseException:
        os.kill(pid, signals.SIGKILL)
        raise
    os.kill(pid, signals.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert stored(postgres_store) == ["c"]


@pytest.mark.parametrize(("of_the_server", "holds"), [("0", "30s"), ("7s", "7s"), ("10min", "10min")])
def test_a_limit_that_the_server_has_of_its_own_holds(
    postgres_store: FeatureDatabase, of_the_server: str, holds: str
) -> None:
    postgres_store._connection.run(f"SET idle_in_transaction_session_timeout = '{of_the_server}'")
    with postgres_store.atomic():
        assert postgres_store._connection.query("SHOW idle_in_transaction_session_timeout") == [(holds,)]
    with postgres_store._connection.snapshot():  # a reader keeps nobody out
        assert postgres_store._connection.query("SHOW idle_in_transaction_session_timeout") == [(of_the_server,)]


def test_a_full_disk_of_the_server_is_a_pause_and_costs_nothing(postgres_url: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        place = server.directory / "small"
        try:
            disk = SmallDisk(place, megabytes=12)
        except OSError as error:
            pytest.skip(str(error))
        stack.callback(disk.close)
        place.chmod(0o700)
        server.start_beside(["true"], place).wait()
        server.run_sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.run_sql(f"GRANT CREATE ON TABLESPACE small TO {ROLE}")
        server.run_sql(f"ALTER ROLE {ROLE} SET default_tablespace = 'small'")
        db = stack.enter_context(closing(FeatureDatabase(server.url())))
        db.upgrade()
        kept = [f"before-{number}" for number in range(20)]
        for name in kept:
            insert(db, name)
        disk.fill()

        def until_it_fails() -> None:
            for number in range(20_000):
                insert(db, f"at-the-end-{number}")
                kept.append(f"at-the-end-{number}")

        with pytest.raises(StoreUnavailable, match="No space left"):
            until_it_fails()
        assert stored(db) == kept
        disk.make_room()
        insert(db, "after")
        assert stored(db) == [*kept, "after"]


def test_a_release_that_is_too_old_is_refused(
    postgres_store: FeatureDatabase, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FIRST_VERSION", 990_000)
    with pytest.raises(StoreError, match=r"PostgreSQL \d+.* is too old: 99 is needed") as refused:
        stored(FeatureDatabase(postgres_url))
    assert not isinstance(refused.value, StoreUnavailable)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
def test_a_server_that_does_not_prove_who_it_is_is_refused(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="tls"))
    for name in ("server", "other"):
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        files = ["-keyout", str(place / f"{name}.key"), "-out", str(place / f"{name}.crt")]
        names = ["-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
        shutil.copy(place / f"{name}.crt", tmp_path)
        (place / f"{name}.key").chmod(0o600)
    port = free_port()
    said = [f"ssl_cert_file = '{place}/server.crt'", f"ssl_key_file = '{place}/server.key'"]
    server = PostgresServer("listen_addresses = 'localhost'", "ssl = on", *said, port=port)
    server.start_beside(["true"], place).wait()
    with server:
        url = f"postgresql://{ROLE}@localhost:{port}/{DATABASE}?sslmode=verify-full&sslrootcert={tmp_path}"
        with closing(FeatureDatabase(f"{url}/server.crt")) as db:
            db.upgrade()
            assert db._connection.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]
        with pytest.raises(StoreRefused, match="certificate verify failed"):
            FeatureDatabase(f"{url}/other.crt").initialize()
    shutil.rmtree(place)


@pytest.fixture
def pooled_url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """The same store behind a pooler in transaction mode, whose two sessions its clients take turns with."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is missing")
    place = Path(tempfile.mkdtemp(prefix="pool"))
    (place / "users").write_text(f'"{ROLE}" ""\n')
    (place / "pool.ini").write_text(
        f"[databases]\n{DATABASE} = host={postgres_server.directory}\n[pgbouncer]\nlisten_port = 6432\n"
        f"listen_addr =\nunix_socket_dir = {place}\nauth_type = trust\nauth_file = {place}/users\n"
        f"pool_mode = transaction\ndefault_pool_size = 2\nlogfile = {place}/log\n"
    )
    pooler = postgres_server.start_beside([program, str(place / "pool.ini")], place)
    wait_until(lambda: (place / ".s.PGSQL.6432").exists() or pooler.poll() is not None)
    assert pooler.poll() is None, (place / "log").read_text()
    schema = postgres_url.partition("schema=")[2]
    yield f"postgresql://{ROLE}@/{DATABASE}?host={place}&port=6432&schema={schema}"
    pooler.terminate()
    pooler.wait()
    shutil.rmtree(place)


def test_many_clients_behind_a_pooler_in_transaction_mode_take_turns(
    postgres_store: FeatureDatabase, pooled_url: str
) -> None:
    """More of them than the pooler has sessions; what one had set in a session is nothing to the next."""

    def work(name: str) -> None:
        with closing(FeatureDatabase(pooled_url)) as store:
            for number in range(20):
                insert(store, f"{name}-{number}")
                store.outcomes.record([outcome(f"{name}-{number}", 1.0)])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert len(stored(postgres_store)) == 80
    assert postgres_store.counts().labelled == 80
    assert postgres_store._connection.query("SELECT count(*) FROM feature_vectors WHERE target_r_multiple = 1.0") == [
        (80,)
    ]


def test_a_worker_behind_a_pooler_works(
    postgres_store: FeatureDatabase, pooled_url: str, tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_STORE_URL", pooled_url)
    with desk(settings_for(tmp_path / "var", valkey_url)) as worker:
        for number in range(30):
            send(worker.client, SIGNALS, signal(number))
            send(worker.client, TRADES, closed(number, 1.0))
        worker.drain()
        assert pending(worker.client) == 0
    counts = postgres_store.counts()
    assert (counts.signals, counts.labelled, counts.dead_letters) == (30, 30, 0)
    with EventArchive(pooled_url) as archive:
        assert (archive.count(), len(archive.after(0, limit=99)), archive.missing()) == (60, 60, [])
        assert len(archive.newest([SIGNALS], among=60)) == 30
        assert archive.prune(datetime.now(UTC) + timedelta(days=200)) == 60
        assert len(archive.make_ahead()) == 10
