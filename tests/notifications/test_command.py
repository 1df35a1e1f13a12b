"""What commands, doctor and settings say of notifications, and what they never show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.notifications.test_sending import NEVER, SECRET, add
from tests.redis_server.test_tls import TlsServer, server  # noqa: F401 - a fixture
from tests.support.desk import settings_for
from tests.support.receiver import Receiver, receiving
from trading_system.ml_refinement.storage.times import utc_now
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.notifications.delivery import post
from worker.notifications.sender import Notifier
from worker.observability import doctor
from worker.settings.schema import load_settings

PAGE = Path(__file__).parents[2] / "docs" / "notifications.md"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, receiver: Receiver) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("REFINERY_REDIS_URL", f"unix://{tmp_path}/nobody-listens.sock")
    monkeypatch.setenv("REFINERY_NOTIFY__URL", receiver.url.replace("http://", "http://user:pass-word@"))
    monkeypatch.setenv("REFINERY_NOTIFY__SECRET", SECRET)


def refinery(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "worker", *arguments], capture_output=True, text=True, check=False)


def masked(receiver: Receiver) -> str:
    return f"http://***@127.0.0.1:{receiver.port}/***"


@pytest.mark.usefixtures("told")
def test_a_test_is_sent_signed_and_says_what_came_back(receiver: Receiver, tmp_path: Path) -> None:
    done = refinery("notify", "--test")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(masked(receiver))} answered 200 OK after \d\.\d\d s\n", done.stdout)
    assert receiver.kinds == ["test"]
    assert receiver.posted[0].headers["webhook-signature"].startswith("v1,")
    assert receiver.posted[0].headers["authorization"] == "Basic dXNlcjpwYXNzLXdvcmQ="
    assert not (tmp_path / "var").exists(), "it only sends"


@pytest.mark.usefixtures("told")
def test_a_test_that_is_not_taken_fails_in_one_line(receiver: Receiver) -> None:
    receiver.status = 403
    done = refinery("notify", "--test")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"refinery: {masked(receiver)} has not taken it: 403 Forbidden\n"
    done = refinery("notify", "--test", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == 403


def test_without_an_address_a_test_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path / "var"))
    done = refinery("notify", "--test")
    assert done.returncode == 1
    assert "REFINERY_NOTIFY__URL is not set" in done.stderr
    assert "nobody is told" in refinery("notify").stdout


@pytest.mark.usefixtures("told")
def test_what_waits_is_told_by_notify_status_and_doctor(receiver: Receiver) -> None:
    settings = load_settings()
    receiver.status = 500
    with open_store(settings) as store:
        add(store, "features_drifted")
        sender = Notifier(settings)
        sender.look(NEVER)
        sender.close()
    for command in ("notify", "status", "doctor"):
        said = refinery(command).stdout
        assert "500 Internal Server Error" in said, command
        assert masked(receiver) in said, command
    state = json.loads(refinery("status", "--json").stdout)["notifications"]
    assert (state["waiting"], state["failed"], state["to"]) == (1, 1, masked(receiver))


def _found(settings: Any) -> list[tuple[str, str]]:
    return [(one.verdict, one.says) for one in doctor.examine(settings) if one.part == "notifications"]


def test_doctor_tells_that_nobody_sends(tmp_path: Path, receiver: Receiver) -> None:
    notify = {"url": receiver.url}
    settings = settings_for(tmp_path / "var", f"unix://{tmp_path}/none.sock", notify=notify)
    with open_store(settings) as store:
        add(store, "a", at=utc_now() - timedelta(minutes=5))
    [(verdict, says)] = _found(settings)
    assert verdict == "bad"
    assert re.match(r"1 wait, the oldest for 30\d s, and nobody tries to send them", says)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["doctor"], ["notify"], ["notify", "--json"]])
def test_no_command_shows_address_or_secret(command: list[str], receiver: Receiver) -> None:
    settings = load_settings()
    with open_store(settings) as store:
        add(store, "a")
    done = refinery(*command)
    assert masked(receiver) in done.stdout
    for secret in ("s3cr3t", "pass-word", SECRET, SECRET[6:]):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("URL", "ftp://host/s3cr3t", "must begin with https:// or http://"),
        ("URL", "file:///etc/s3cr3t", "must begin with https:// or http://"),
        ("URL", "https://host/s3cr3t path", "must be printable ASCII without blanks"),
        ("URL", "https://host/\r\nx-s3cr3t: 1", "must be printable ASCII without blanks"),
        ("URL", "https:///s3cr3t", "must name a host"),
        ("URL", "https://host:s3cr3t/", "must be a URL such as https://host/path"),
        ("SECRET", "s3cr3t", "must have at least 16 characters"),
        ("SECRET", "whsec_s3cr3t-is-no-base64!", "must be base64 after whsec_"),
    ],
)
def test_a_wrong_address_or_secret_is_refused_and_not_shown(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"REFINERY_NOTIFY__{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    said = str(refused.value)
    assert f"REFINERY_NOTIFY__{name}='***': {allowed}" in said
    assert "s3cr3t" not in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
def test_a_certificate_that_nobody_knows_is_not_accepted_and_nothing_is_sent(server: TlsServer) -> None:  # noqa: F811
    answer = post(f"https://localhost:{server.port}/s3cr3t", b"{}", {"webhook-id": "1"}, timeout_s=5)
    assert not answer.taken
    assert answer.says == "its certificate is not accepted: self-signed certificate"
    assert server.received == []


def test_a_host_that_is_not_there_is_told_without_the_address() -> None:
    answer = post("https://nowhere.invalid/s3cr3t", b"{}", {}, timeout_s=5)
    assert answer.says.startswith("nowhere.invalid is not reached: ")
    assert "s3cr3t" not in answer.says


@pytest.mark.usefixtures("told")
def test_the_snippet_of_the_documentation_verifies_what_is_posted_and_nothing_else(receiver: Receiver) -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 - as a reader would run it
    verified = names["verified"]
    refinery("notify", "--test")
    one = receiver.posted[0]
    assert verified(SECRET, one.headers, one.content)
    assert not verified(SECRET, one.headers, one.content + b" ")
    assert not verified(SECRET, {**one.headers, "webhook-id": "msg_other"}, one.content)
    assert not verified("another secret of some length", one.headers, one.content)
    old = {**one.headers, "webhook-timestamp": str(int(one.headers["webhook-timestamp"]) - 3600)}
    assert not verified(SECRET, old, one.content)


def test_the_page_has_every_kind_and_the_fields_of_the_body(receiver: Receiver, tmp_path: Path) -> None:
    from tests.notifications.test_sending import Occasion  # the closed set

    text = PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text.split("## What is posted")[0], re.M)) == {*Occasion, "test"}
    [example] = re.findall(r"```json\n(.*?)```", text, re.S)
    settings = settings_for(tmp_path / "var", "redis://localhost:1", notify={"url": receiver.url})
    with open_store(settings) as store:
        add(store, "a")
        sender = Notifier(settings)
        sender.look(NEVER)
        sender.close()
    assert set(json.loads(example)) == set(receiver.posted[0].document)
