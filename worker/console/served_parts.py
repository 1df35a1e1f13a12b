"""Parts of what was served: a range of time, a symbol, a kind of signal, each with figures of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np
from flask import abort
from numpy.typing import NDArray

from trading_system.ml_refinement.monitoring.served import SERVED_DAYS, ServedFigures, read_served, served_figures
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import PredictionRecord, block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us
from worker.console.queries import ConsoleQueries

#: Days back from the newest outcome.
RANGES: Final = (7, 30, SERVED_DAYS, 365, 1_825)
_SHOWN_GROUPS = 12
_LONGEST = 200
By = Literal["symbol", "kind"]


class ServedGroup(NamedTuple):
    """What was served of one symbol or kind."""

    name: str
    rows: int
    win_rate: float
    mean_r: float
    log_loss: float
    base_rate_log_loss: float
    lift: float


@dataclass(frozen=True, slots=True)
class ServedDays:
    """What was served in a range of time, with what each signal was, shape (n,)."""

    record: PredictionRecord
    symbol: NDArray[np.str_]
    kind: NDArray[np.str_]

    def newest(self, days: int, *, train_window_days: int) -> ServedDays:
        """The rows of so many days up to the newest outcome, with the blocks of time that are right for them."""
        entered = self.record.entered_us
        since = entered[-1] - days * DAY_US + 1 if len(entered) else 0
        first = int(np.searchsorted(entered, since))
        record = self.record.part(first, len(entered))
        hold = measured_hold_us(record.entered_us, record.known_us, train_days=train_window_days)
        return ServedDays(replace(record, block_us=block_us(hold)), self.symbol[first:], self.kind[first:])

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
            won, p, base = record.won, record.p, record.base
            found.append(
                ServedGroup(
                    name,
                    rows=len(record),
                    win_rate=float(won.mean()),
                    mean_r=float(record.r.mean()),
                    log_loss=float(metrics.log_losses(won, p).mean()),
                    base_rate_log_loss=float(metrics.log_losses(won, base).mean()),
                    lift=record.lift().value,
                )
            )
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

    def of(self, range_: ServedDays) -> PredictionRecord:
        """The rows that are meant, of those in its range of time."""
        chosen = np.ones(len(range_.record), dtype=bool)
        if self.symbol:
            chosen &= range_.symbol == self.symbol
        if self.kind:
            chosen &= range_.kind == self.kind
        return range_.rows(chosen)


class ServedView(NamedTuple):
    """A part of what was served with its figures, and those of each symbol and kind in its range of time."""

    record: PredictionRecord
    figures: ServedFigures
    symbols: list[ServedGroup]
    kinds: list[ServedGroup]


def read_view(queries: ConsoleQueries, part: ServedPart) -> ServedView:
    """What a part of what was served comes to; rows and figures are remembered for as long as the data stay."""
    version = queries.version()
    window = queries.settings.to_ml_config().training.train_window_days
    longest = queries.remembered("served days", version, lambda: read_longest(queries, train_window_days=window))
    range_ = longest.newest(part.days, train_window_days=window)
    record = part.of(range_)
    figures = queries.remembered(("served part", part), version, lambda: served_figures(record))
    symbols, kinds = queries.remembered(
        ("served groups", part.days), version, lambda: (range_.groups("symbol"), range_.groups("kind"))
    )
    return ServedView(record, figures, symbols, kinds)


def read_longest(queries: ConsoleQueries, *, train_window_days: int) -> ServedDays:
    """What champions served in the longest range, at most 50,000 rows: every shorter one is the end of it."""
    record = read_served(queries.store, train_window_days=train_window_days, days=RANGES[-1])
    kinds = queries.store.signals.symbols_and_kinds(record.signal_ids.tolist())
    named = [kinds.get(name, ("", "")) for name in record.signal_ids.tolist()]
    symbol, kind = (np.array([pair[at] for pair in named], dtype=np.str_) for at in (0, 1))
    return ServedDays(record, symbol, kind)
