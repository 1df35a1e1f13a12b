"""What `refinery doctor` says of a store in PostgreSQL, on servers that are set up as people set them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.rows import metadata, plain, prediction
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.observability.checks.postgres import look_at_postgres
from worker.observability.findings import Finding
from worker.settings.schema import load_settings

pytestmark = needs_postgres
Look = Callable[[str], list[Finding]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    return lambda url: list(look_at_postgres(load_settings(state_dir=tmp_path / "var", store_url=url)))


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def made(url: str) -> str:
    store = FeatureDatabase(url)
    store.upgrade()
    store.store_feature_vector(plain("s1"))
    store.close()
    return url


def bad(findings: list[Finding]) -> list[str]:
    return [finding.says for finding in findings if finding.verdict == "bad"]


def test_a_sound_server_without_a_standby_is_told_what_it_does_not_promise(look: Look, primary: PostgresServer) -> None:
    findings = look(made(primary.url("sound")))
    assert [finding.verdict for finding in findings] == ["ok", "warn"]
    assert "PostgreSQL 1" in findings[0].says
    assert "1 signal" in findings[0].says
    assert findings[1].says.startswith("no commit waits for a standby (no standby)")


@pytest.mark.parametrize(
    ("setting", "said"),
    [("fsync = off", "fsync is off"), ("full_page_writes = off", "full_page_writes is off")],
)
def test_a_server_that_breaks_its_word_is_bad(look: Look, setting: str, said: str) -> None:
    with PostgresServer(setting) as server:
        assert [says.partition(":")[0] for says in bad(look(made(server.url())))] == [said]


def test_commits_that_are_not_waited_for_are_bad(look: Look, primary: PostgresServer) -> None:
    url = made(primary.url("hasty"))
    primary.run_sql("ALTER ROLE refinery SET synchronous_commit = off")
    try:
        assert [says.partition(":")[0] for says in bad(look(url))] == ["synchronous_commit is off"]
    finally:
        primary.run_sql("ALTER ROLE refinery RESET synchronous_commit")


def test_a_standby_is_no_store_to_write_to(look: Look, primary: PostgresServer) -> None:
    made(primary.url("followed"))
    with PostgresServer(standby_of=primary) as standby:
        assert any("is a standby" in says for says in bad(look(standby.url("followed"))))


def test_rows_that_refer_to_nothing_are_told(look: Look, primary: PostgresServer) -> None:
    url = made(primary.url("orphaned"))
    store = FeatureDatabase(url)
    store.models.register(metadata("m1"))
    store.scores.log_predictions([prediction("s1", "m1")])
    store.scores.put_served([("s1", "m1", "scored", b"{}")])
    store._connection.run("DELETE FROM feature_vectors")
    store._connection.run("DELETE FROM model_registry")
    store.close()
    assert bad(look(url)) == ["2 rows refer to nothing: somebody else wrote or removed rows"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("refinery@", "stranger@"), 'role "stranger" does not exist'),
        (("/refinery?", "/elsewhere?"), 'database "elsewhere" does not exist'),
        (("schema=wrong", "schema=nothing_here"), "run `refinery store upgrade`"),
    ],
)
def test_a_wrong_address_is_told_in_words(
    look: Look, primary: PostgresServer, change: tuple[str, str], said: str
) -> None:
    (says,) = bad(look(made(primary.url("wrong")).replace(*change)))
    assert said in says


def test_a_server_that_is_away_is_told(look: Look, tmp_path: Path) -> None:
    (says,) = bad(look(f"postgresql://refinery@/refinery?host={tmp_path}"))
    assert "postgresql://refinery@" in says
