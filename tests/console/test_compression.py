"""What browsers are sent: text compressed, no secret that a length could tell, and static files that are kept."""

from __future__ import annotations

import gzip
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from worker.console.access.compression import masked, unmasked

TAKES = {"Accept-Encoding": "gzip, br"}


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()


@pytest.mark.parametrize(
    "path", ["/", "/signals", "/dead-letters", "/monitoring", "/models", "/jobs", "/static/console.css"]
)
def test_text_is_compressed_for_whoever_takes_that_and_for_nobody_else(client: FlaskClient, path: str) -> None:
    plain, packed = client.get(path), client.get(path, headers=TAKES)
    for answer in (plain, packed):
        assert answer.status_code == 200
        assert "Accept-Encoding" in answer.headers["Vary"]
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 2
    said = gzip.decompress(packed.data)
    assert (said[:300], said[-100:]) == (plain.data[:300], plain.data[-100:])
    assert abs(len(said) - len(plain.data)) < 200, "ages and tokens differ"
    refused = client.get(path, headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "Content-Encoding" not in refused.headers


def test_what_is_short_or_streamed_or_no_text_is_sent_as_it_is(client: FlaskClient) -> None:
    for path in ("/signals.csv", "/first-event.jsonl", "/jobs/rq/favicon.ico", "/nowhere"):
        assert "Content-Encoding" not in client.get(path, headers=TAKES).headers, path


def test_no_two_pages_share_a_token_and_every_one_of_them_is_taken(client: FlaskClient) -> None:
    pages = [client.get("/models/rollback").get_data(as_text=True) for _ in range(3)]
    tokens = [found for page in pages for found in re.findall(r'name="csrf_token" value="([^"]+)"', page)]
    assert len({re.search(r'name="csrf_token" value="([^"]+)"', page)[1] for page in pages}) == 3  # type: ignore[index]
    assert len({unmasked(token) for token in tokens}) == 1
    zone = {"zone": "UTC", "page": "/"}
    for token in set(tokens):
        answer = client.post("/zone", data=zone | {"csrf_token": token}, headers={"Origin": "http://localhost"})
        assert answer.status_code == 302
    for wrong in ("", "x", unmasked(tokens[0]), masked("another"), "é" * 40, tokens[0][:-4]):
        answer = client.post("/zone", data=zone | {"csrf_token": wrong}, headers={"Origin": "http://localhost"})
        assert answer.status_code == 403, wrong


def test_a_static_file_is_kept_until_it_changes(client: FlaskClient) -> None:
    page = client.get("/").get_data(as_text=True)
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(addresses) == 3
    for address in addresses:
        assert re.search(r"\?v=[0-9a-f]{16}$", address)
        for headers in ({}, TAKES):
            answer = client.get(address, headers=headers)
            assert "max-age=31536000" in answer.headers["Cache-Control"]
            assert "immutable" in answer.headers["Cache-Control"]
            tag = answer.headers["ETag"]
            assert tag.startswith('"')
            again = client.get(address, headers=headers | {"If-None-Match": tag})
            assert (again.status_code, again.data) == (304, b"")
    of_another_release = client.get("/static/console.css?v=0123456789abcdef")
    assert "max-age" not in of_another_release.headers.get("Cache-Control", "")
    tags = {client.get("/static/console.css", headers=headers).headers["ETag"] for headers in ({}, TAKES)}
    assert len(tags) == 2, "the compressed file is another one"


def test_a_page_is_kept_nowhere(client: FlaskClient) -> None:
    assert client.get("/", headers=TAKES).headers["Cache-Control"] == "no-store"
