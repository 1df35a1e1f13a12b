"""The names of fields that stand apart from the models are the models' own."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import BaseModel

from worker.events import field_names
from worker.events.models import NewsJson, SignalCreatedJson, TradeClosedJson


def is_number(model: type[BaseModel], name: str) -> bool:
    """Whether a field takes a number, and not anything."""
    kind = model.model_fields[name].annotation
    return bool({int, float} & {kind, *get_args(kind)}) or any(
        {int, float} & set(get_args(part)) for part in get_args(kind)
    )


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (SignalCreatedJson, field_names.SIGNAL_FIELDS),
        (TradeClosedJson, field_names.TRADE_FIELDS),
        (NewsJson, field_names.NEWS_FIELDS),
    ],
)
def test_the_fields_are_those_of_the_contract(model: type[BaseModel], names: frozenset[str]) -> None:
    assert model.model_fields.keys() == names


@pytest.mark.parametrize(
    ("model", "numbers"),
    [(SignalCreatedJson, field_names.SIGNAL_NUMBERS), (TradeClosedJson, field_names.TRADE_NUMBERS)],
)
def test_the_numbers_are_those_of_the_contract(model: type[BaseModel], numbers: tuple[str, ...]) -> None:
    found = {name for name in model.model_fields if is_number(model, name)}
    assert found - {"schema_version"} == {*numbers}
