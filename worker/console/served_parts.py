"""Parts of what was served: a range of time, a symbol, a kind of signal, each with figures of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np
from flask import abort
from numpy.typing import NDArray

from trading_system.ml_refinement.monitoring.served import SERVED_DAYS, ServedFigures, read_served, served_figures
from trading_system.ml_refinement.typing import BoolArray
from trading_system.ml_refinement.validation.evidence import PredictionRecord
from worker.console.queries import ConsoleQueries

#: Days back from the newest outcome.
RANGES: Final = (7, 30, SERVED_DAYS, 365, 1_825)
_SHOWN_GROUPS = 12
_LONGEST = 200
By = Literal["symbol", "kind"]


class ServedGroup(NamedTuple):
    """What was served of one symbol or kind."""

    name: str
    figures: ServedFigures
    win_rate: float


@dataclass(frozen=True, slots=True)
class ServedDays:
    """What was served in a range of time, with what each signal was, shape (n,)."""

    record: PredictionRecord
    symbol: NDArray[np.str_]
    kind: NDArray[np.str_]

    def rows(self, chosen: BoolArray) -> PredictionRecord:
        """The record of the rows chosen, shape (n,)."""
        arrays = ("signal_ids", "entered_us", "known_us", "p", "r", "base", "window")
        return replace(self.record, **{name: getattr(self.record, name)[chosen] for name in arrays})

    def groups(self, by: By) -> list[ServedGroup]:
        """Figures of each symbol, or kind, those with the most outcomes first; a dozen at most."""
        values = getattr(self, by)
        names, counts = np.unique(values, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:_SHOWN_GROUPS]
        found = []
        for name in names[largest].tolist():
            record = self.rows(values == name)
            found.append(ServedGroup(name, served_figures(record), float(record.won.mean())))
        return found


@dataclass(frozen=True, slots=True)
class ServedPart:
    """What a request asks for; empty text is no condition."""

    days: int = SERVED_DAYS
    symbol: str = ""
    kind: str = ""

    @classmethod
    def asked_for(cls, given: Mapping[str, str]) -> ServedPart:
        """The part that a request's parameters name."""
        days = given.get("days") or str(SERVED_DAYS)
        if days not in map(str, RANGES):
            abort(400, "There is no such range.")
        return cls(int(days), *((given.get(name) or "").strip()[:_LONGEST] for name in ("symbol", "kind")))

    @property
    def is_usual(self) -> bool:
        """Whether it is what every other page shows."""
        return self == ServedPart()

    def of(self, whole: ServedDays) -> tuple[PredictionRecord, ServedFigures]:
        """The rows that are meant, and their figures."""
        chosen = np.ones(len(whole.record), dtype=bool)
        if self.symbol:
            chosen &= whole.symbol == self.symbol
        if self.kind:
            chosen &= whole.kind == self.kind
        record = whole.rows(chosen)
        return record, served_figures(record)


def read_days(queries: ConsoleQueries, days: int) -> ServedDays:
    """What champions served in the days up to the newest outcome, at most 50,000 rows."""
    window = queries.settings.to_ml_config().training.train_window_days
    record = read_served(queries.store, train_window_days=window, days=days)
    kinds = queries.store.signals.symbols_and_kinds(record.signal_ids.tolist())
    named = [kinds.get(name, ("", "")) for name in record.signal_ids.tolist()]
    symbol, kind = (np.array([pair[at] for pair in named], dtype=np.str_) for at in (0, 1))
    return ServedDays(record, symbol, kind)
