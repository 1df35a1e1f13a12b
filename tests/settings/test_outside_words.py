"""Settings as platforms and mistakes write them: no secret is shown, and what is not ours stops nothing."""

from __future__ import annotations

import os

import pytest

from worker.errors import ConfigurationError
from worker.settings.masking import masker
from worker.settings.messages import service_links
from worker.settings.redis_url import mask_url
from worker.settings.schema import load_settings


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0?password=hunter22",
        "redis://localhost:6379/0?db=0&PassWord=hunter22",
        "rediss://h/0?username=ops&password=hunter22",
        "redis://:hunter22",
        "redis://hunter22:6379:1/0",
        "redis://:a#hunter22@h:6379/0",
        "redis://:a/hunter22@h:6379/0",
        "redis://:a?hunter22@h:6379/0",
        "redis://:a@hunter22@h:x/0",
        "ops:hunter22@h:6379",
        "http://ops:hunter22@h:6379",
    ],
)
def test_a_refused_address_shows_no_password_in_any_form(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REFINERY_REDIS_URL", url)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "hunter22" not in str(refused.value)
    if "://" in url and ("@" in url or "?" in url):
        assert "hunter22" not in masker(None)(f"cannot use {url}")


@pytest.mark.parametrize("sign", ["#", "/", "?"])
def test_a_password_that_is_not_encoded_is_told_how_to_be(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    monkeypatch.setenv("REFINERY_REDIS_URL", f"redis://:pa{sign}ss@localhost:6379/0")
    with pytest.raises(ConfigurationError, match="percent-encode it"):
        load_settings()
    monkeypatch.setenv("REFINERY_REDIS_URL", "redis://:pa%23%2F%3Fss@localhost:6379/0")
    assert load_settings().masked_redis_url == "redis://***@localhost:6379/0"


def test_what_is_no_secret_is_shown() -> None:
    for shown in ("redis://h:6379/0", "redis://[::1]:6379", "unix:///run/valkey.sock", "42", "https://example.com/a"):
        assert mask_url(shown) == shown


def test_service_links_of_kubernetes_stop_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("REFINERY", "REFINERY_CONSOLE", "REFINERY_METRICS"):
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:8700")
        monkeypatch.setenv(f"{service}_PORT_8700_TCP", "tcp://10.0.0.1:8700")
        monkeypatch.setenv(f"{service}_PORT_8700_TCP_ADDR", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "8700")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "8700")
    settings = load_settings()
    assert (settings.console_port, settings.metrics_port) == (8700, 9464)
    assert len(service_links(os.environ)) == 18
    monkeypatch.setenv("REFINERY_CONSOLE_PORT", "8800")
    assert load_settings().console_port == 8800
    assert "REFINERY_CONSOLE_PORT" not in service_links(os.environ)


@pytest.mark.parametrize("name", ["REFINERY_CONSOLE_PRT", "REFINERY_PORT", "REFINERY_CONSOLE_PORT"])
def test_what_is_misspelt_or_wrong_is_still_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp")
    with pytest.raises(ConfigurationError, match=name):
        load_settings()
