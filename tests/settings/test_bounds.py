"""A number far beyond what a setting is for is refused when settings are read, not met in the middle of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

from worker.errors import ConfigurationError
from worker.settings.schema import Settings, load_settings


def numbers(kind: Any, prefix: str) -> Iterator[str]:
    """Environment names of every setting that is a whole number or a float."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        hints = {name: field.annotation for name, field in kind.model_fields.items()}
    elif is_dataclass(kind):
        hints = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    else:
        return
    for name, hint in hints.items():
        own = f"{prefix}{name}".upper()
        if hint in (int, float):
            yield own
        else:
            yield from numbers(hint, f"{own}__")


NUMBERS = sorted(numbers(Settings, "REFINERY_"))


def test_the_numbers_are_found() -> None:
    assert {"REFINERY_BATCH_SIZE", "REFINERY_ARCHIVE__RETENTION_DAYS", "REFINERY_ML__TRAINING__TRAIN_WINDOW_DAYS"} <= {
        *NUMBERS
    }


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["9" * 40, "-1", "nan"])
def test_a_number_out_of_bounds_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name.rpartition("__")[2].removeprefix("REFINERY_")):
        load_settings()
