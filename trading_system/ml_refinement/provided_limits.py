"""What the features that only the desk knows may be called, how many there are, and between which numbers they lie.

Apart from what computes them because settings and the schema of events are made from these, without numpy.
"""

from __future__ import annotations

import re

#: The family that they are, for `custom_features`.
PROVIDED_FEATURES = "provided_features"
PROVIDED_NAME = r"^[a-z][a-z0-9_]{0,63}$"
MOST_PROVIDED = 64
#: Beyond it a number cannot be meant; turnovers and market values lie below.
PROVIDED_MAX = 1e15

_NAME = re.compile(PROVIDED_NAME)


def is_provided_name(name: str) -> bool:
    """Whether a value of `features` in an event may be called so."""
    return _NAME.fullmatch(name) is not None
