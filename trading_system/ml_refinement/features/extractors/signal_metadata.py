"""What a signal says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

TEXT_FIELDS = frozenset({"conviction", "asset_class", "signal_type", "direction"})


class SignalMetadata(NamedTuple):
    """Scores are 0 to 10, prices above 0, sizes in percent. None means missing."""

    technical_score: float | None = None
    news_score: float | None = None
    combined_score: float | None = None
    conviction: str | None = None
    entry_price: float | None = None
    target_price: float | None = None
    stop_price: float | None = None
    position_size_pct: float | None = None
    asset_class: str | None = None
    signal_type: str | None = None
    direction: str | None = None

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> SignalMetadata:
        """From a dictionary; other keys are passed over, missing ones are None. Nothing is coerced.

        Raises:
            TypeError: text where a number belongs, or a number where text belongs.
        """
        known = {name: data[name] for name in cls._fields if data.get(name) is not None}
        for name, value in known.items():
            wanted: type = str if name in TEXT_FIELDS else Real
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}, not {'text' if name in TEXT_FIELDS else 'a number'}")
        return cls(**known)
