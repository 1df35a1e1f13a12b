"""What the settings keep of a password."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from worker.cli.main import cli
from worker.settings.passwords import hash_password, is_password_hash, password_matches

PASSWORD = "correct horse battery"  # noqa: S105 - nobody's


def test_a_password_fits_its_hash_and_no_other_does() -> None:
    hashed = hash_password(PASSWORD)
    assert password_matches(PASSWORD, hashed)
    assert not password_matches(PASSWORD + " ", hashed)
    assert not password_matches("", hashed)
    assert PASSWORD not in hashed


def test_one_password_has_another_hash_each_time() -> None:
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)
    assert first != second
    assert password_matches(PASSWORD, first)
    assert password_matches(PASSWORD, second)


def test_a_hash_that_was_made_with_other_parameters_goes_on_fitting() -> None:
    """As `hashlib.scrypt(b"pw", salt=bytes(16), n=1024, r=8, p=1, dklen=32)` has it."""
    import base64
    import hashlib

    raw = hashlib.scrypt(b"pw", salt=bytes(16), n=1024, r=8, p=1, dklen=32)
    hashed = f"scrypt:1024:8:1:{'A' * 22}:{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"
    assert password_matches("pw", hashed)
    assert not password_matches("pv", hashed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PASSWORD,
        "scrypt:16384:8:1:short:short",
        f"scrypt:16385:8:1:{'A' * 22}:{'A' * 43}",
        f"scrypt:1048576:32:1:{'A' * 22}:{'A' * 43}",
        f"scrypt:16384:8:99:{'A' * 22}:{'A' * 43}",
        f"scrypt:0:8:1:{'A' * 22}:{'A' * 43}",
    ],
)
def test_what_is_no_hash_or_takes_too_much_to_try_is_none(text: str) -> None:
    assert not is_password_hash(text)
    assert not password_matches(PASSWORD, text)


def test_the_command_reads_the_password_and_never_says_it() -> None:
    done = CliRunner().invoke(cli, ["hash-password"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0
    assert password_matches(PASSWORD, done.stdout.strip())
    assert PASSWORD not in done.output


def test_a_password_that_can_be_guessed_gets_no_hash() -> None:
    done = CliRunner().invoke(cli, ["hash-password"], input="short\n")
    assert done.exit_code == 1
    assert "scrypt" not in done.output
