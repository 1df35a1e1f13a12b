"""What each recipe can be told: its parameters, their defaults, and what they may be. Loads nothing that fits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import Field, Strict, TypeAdapter, ValidationError

_Count = Annotated[int, Strict(), Field(ge=1)]
_Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
_AtLeast0 = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
_Part = Annotated[float, Strict(), Field(gt=0, le=1)]
_Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)] | None


class Parameter(NamedTuple):
    """A parameter's value unless told otherwise, and the type of what it may be."""

    default: Any
    allowed: Any


PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    "ensemble": {
        "sparsity": Parameter(9.0, _Positive),
        "slab": Parameter(0.005, _Positive),
        "z_clip": Parameter(5.0, _Positive),
        "learning_rate": Parameter(0.09, _Positive),
        "max_iter": Parameter(40, _Count),
        "max_leaf_nodes": Parameter(4, Annotated[int, Strict(), Field(ge=2)] | None),
        "min_samples_leaf": Parameter(20, _Count),
        "l2_regularization": Parameter(80.0, _AtLeast0),
        "max_features": Parameter(0.3, _Part),
        "max_bins": Parameter(64, Annotated[int, Strict(), Field(ge=2, le=255)]),
        "random_state": Parameter(42, _Seed),
    },
    "gradient_boosting": {
        "n_estimators": Parameter(100, _Count),
        "max_depth": Parameter(5, _Count | None),
        "learning_rate": Parameter(0.1, _Positive),
        "min_samples_leaf": Parameter(20, _Count | Annotated[float, Strict(), Field(gt=0, lt=1)]),
        "subsample": Parameter(0.8, _Part),
        "random_state": Parameter(42, _Seed),
    },
}


def defaults(recipe: str) -> dict[str, Any]:
    """The recipe's parameters with their values unless told otherwise."""
    return {name: parameter.default for name, parameter in PARAMETERS[recipe].items()}


def wrong_parameters(recipe: str, given: Mapping[str, Any]) -> str:
    """What a recipe cannot use of what it is given: parameters it does not know, and values out of range.

    Empty where it can use all; else one line that names each, with what is known or allowed.
    """
    known = PARAMETERS[recipe]
    unknown = sorted(set(given) - set(known))
    if unknown:
        others = [other for other in PARAMETERS if other != recipe and set(given) <= set(PARAMETERS[other])]
        message = f"unknown parameters {', '.join(unknown)} of {recipe}; known: {', '.join(sorted(known))}"
        return message + "".join(f"; {other} knows all that was given" for other in others)
    wrong = [f"{name}={value!r} {said}" for name, value in given.items() if (said := _wrong(recipe, name, value))]
    return f"{recipe} cannot use {'; '.join(wrong)}" if wrong else ""


def _wrong(recipe: str, name: str, value: Any) -> str:
    try:
        _adapter(recipe, name).validate_python(value.item() if hasattr(value, "item") else value)
    except ValidationError as error:
        messages = dict.fromkeys(item["msg"] for item in error.errors(include_url=False))
        return "(" + " or ".join(message.replace("Input should", "must") for message in messages) + ")"
    return ""


@cache
def _adapter(recipe: str, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(PARAMETERS[recipe][name].allowed)
