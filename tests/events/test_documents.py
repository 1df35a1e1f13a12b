"""What the documents say about events is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.valid_events import read
from worker.errors import Reason
from worker.events.decoding import SignalScored, json_schema

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(r"```json (\S+)\n(.*?)```", (DOCS / "events.md").read_text(), re.S)


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_an_example_in_the_documents_is_an_event(kind: str, example: str) -> None:
    if kind == "signal.scored":
        assert SignalScored.model_validate_json(example).to_bytes()
    else:
        assert read(kind, example.encode()).unknown_fields == 0


@pytest.mark.parametrize("kind", ["signal.created", "trade.closed", "signal.scored"])
def test_every_field_is_in_the_documents(kind: str) -> None:
    section = (DOCS / "events.md").read_text().split(f"\n## {kind}\n")[1].split("\n## ")[0]
    missing = [name for name in json_schema(kind)["properties"] if f"`{name}`" not in section]
    assert missing == []


def test_the_documents_say_of_every_reason_what_its_advice_says() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "dead-letters.md").read_text(), re.M)
    assert sorted(listed) == sorted((reason.value, reason.advice) for reason in Reason)
