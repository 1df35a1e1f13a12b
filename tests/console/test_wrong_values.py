"""Every address of the console with values that it is not meant for: a page, or one that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Flask
from werkzeug.routing import Rule

import worker.console

WRONG = (
    "9" * 40,
    "-1",
    "nan",
    "1.5",
    "yesterday",
    "9999-99-99",
    "\x1b[2J\nforged",
    "%ff%00",
    "a" * 5000,
    "../../x",
    "<b>",
)
SOURCE = Path(worker.console.__file__).parent
#: Every name that a page reads.
NAMES = sorted(
    {
        name
        for file in SOURCE.rglob("*.py")
        for name in re.findall(r'(?:args|values)\.get\(\s*"(\w+)"', file.read_text())
    }
    | {"reason", "stream", "symbol", "fingerprint", "signal_id", "since", "until", "status", "text"}
)


def addresses(rule: Rule) -> list[str]:
    """The rule's address with each wrong value in the place of each argument, and as each query parameter."""
    fitting = re.sub(r"<[^>]+>", "1", rule.rule)
    places = re.findall(r"<[^>]+>", rule.rule)
    wrong = []
    for place in places:
        for value in WRONG:
            said = value if value.startswith("%") else quote(value, safe="")
            wrong.append(re.sub(r"<[^>]+>", "1", rule.rule.replace(place, said, 1)))
    own = [] if rule.rule.startswith("/rq") else NAMES
    return wrong + [f"{fitting}?{name}={quote(value, safe='%')}" for name in own for value in WRONG]


def test_no_address_fails_whatever_it_is_asked(flask_app: Flask) -> None:
    client, faults, seen = flask_app.test_client(), [], 0
    for rule in flask_app.url_map.iter_rules():
        for address in addresses(rule) if "GET" in (rule.methods or ()) else ():
            with client.get(address) as answer:
                page = answer.get_data() if answer.mimetype.startswith("text/") else b""
            seen += 1
            if answer.status_code >= 500 or b"Traceback" in page or b"<b>x" in page:
                faults.append(f"{address[:120]} -> {answer.status_code}")
    assert seen > 1000
    assert not faults, f"{len(faults)} of {seen}\n" + "\n".join(faults[:60])


@pytest.mark.parametrize("page", ["/dead-letters", "/dead-letters/export", "/signals"])
@pytest.mark.parametrize("name", ["since", "until"])
def test_a_time_that_is_none_is_said_to_be_none_and_the_filter_is_kept(page: str, name: str, flask_app: Flask) -> None:
    answer = flask_app.test_client().get(f"{page}?{name}=yesterday&symbol=EURUSD")
    body = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert "neither a date nor a time" in body
    assert 'value="yesterday"' in body
    assert 'value="EURUSD"' in body
