"""Which addresses of a store in PostgreSQL are taken, and what is said of the others; never with a password."""

from __future__ import annotations

import pytest

from trading_system.ml_refinement.storage.postgres.place import read_place
from worker.errors import ConfigurationError
from worker.settings.schema import load_settings

HIDDEN = "s3cretw0rd"


@pytest.mark.parametrize(
    ("url", "name", "hosts"),
    [
        ("postgresql://a@h/db", "postgresql://a@h/db?schema=signal_refinery", ("h",)),
        (f"postgresql://a:{HIDDEN}@h:5433/db?schema=x", "postgresql://a@h:5433/db?schema=x", ("h",)),
        ("postgres://h1:1,h2:2/db", "postgresql://h1:1,h2:2/db?schema=signal_refinery", ("h1", "h2")),
        ("postgresql://a@[::1]:5432/db", "postgresql://a@[::1]:5432/db?schema=signal_refinery", ("[::1]",)),
        ("postgresql://a@/db?host=/run/pg", "postgresql://a@/run/pg/db?schema=signal_refinery", ("/run/pg",)),
    ],
)
def test_an_address_is_told_apart(url: str, name: str, hosts: tuple[str, ...]) -> None:
    place = read_place(url)
    assert (place.name, place.hosts) == (name, hosts)
    assert "schema" not in place.conninfo.partition("?")[2]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://h/db", "must begin with postgresql://"),
        (f"postgresql://a:{HIDDEN}@localhost", "names no database"),
        (f"postgresql://a:{HIDDEN}@localhost/db?schema=Mine", "schema=Mine: small letters"),
        (f"postgresql://a:{HIDDEN}@localhost/db?schema=pg_mine", "not a digit or pg_ first"),
        (f"postgresql://a:{HIDDEN}@localhost:port/db", "cannot be read"),
        (f"postgresql://a:{HIDDEN}@db.example/db", "must have sslmode=verify-full for another host"),
        (f"postgresql://a:{HIDDEN}@db.example/db?sslmode=require", "must have sslmode=verify-full"),
        (f"postgresql://a:{HIDDEN}@localhost,db.example/db", "must have sslmode=verify-full"),
        (f"postgresql://a:{HIDDEN}@/db?host=db.example", "must have sslmode=verify-full"),
        (f"postgresql://a:{HIDDEN}@localhost/db?host=db.example", "names its servers twice"),
        (f"postgresql://a:{HIDDEN}@localhost/db?hostaddr=192.0.2.1", "no option of PostgreSQL's addresses: hostaddr"),
        (f"postgresql://a:{HIDDEN}@localhost/db?sslmod=verify-full", "no option of PostgreSQL's addresses: sslmod"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("REFINERY_STORE_URL", url)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert said in str(refused.value)
    assert "REFINERY_STORE_URL" in str(refused.value)
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a@localhost/db",
        "postgresql://a@127.0.0.1,[::1]:5433/db",
        "postgresql://a@/db?host=/run/postgresql",
        "postgresql://a@db1,db2/db?sslmode=verify-full&target_session_attrs=read-write",
    ],
)
def test_this_machine_and_servers_that_prove_who_they_are_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REFINERY_STORE_URL", url)
    assert load_settings().store_place == url


def test_a_place_to_read_from_needs_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_STORE_READ_URL", "postgresql://a@localhost/db")
    with pytest.raises(ConfigurationError, match="REFINERY_STORE_READ_URL is of a store in PostgreSQL"):
        load_settings()
