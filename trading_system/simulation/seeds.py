"""Where a measurement's randomness comes from: one family of seeds for choosing, another for reporting.

Whatever is chosen (a recipe, a prior, a level of the gate) is chosen on CHOOSING. The tables of the documentation are
measured on REPORTING, which nothing is chosen on.
"""

from __future__ import annotations

import zlib
from enum import StrEnum

import numpy as np

#: What a measurement is of: names, sizes, and the number of the repetition.
Case = tuple[str | float | int, ...]


class Seeds(StrEnum):
    """What a world is drawn for."""

    CHOOSING = "choosing"
    REPORTING = "reporting"


def generator(part: str, case: Case, seeds: Seeds = Seeds.REPORTING) -> np.random.Generator:
    """The case's own randomness: its seed is its name, so that any case can be measured again alone."""
    name = (part, case) if seeds is Seeds.REPORTING else (seeds.value, part, case)
    return np.random.default_rng(zlib.crc32(repr(name).encode()))
