"""Rows to events by the contract that the worker itself reads with: signals and trades in the order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from worker.errors import DecodeError, EventError, Reason
from worker.events.decoding import EventKind, Limits, SignalCreated, TradeClosed, decode
from worker.events.field_names import SIGNAL_NUMBERS, SINGLE_SIGNAL_FIELDS, SINGLE_TRADE_FIELDS, TRADE_NUMBERS
from worker.importing.cells import Cells
from worker.importing.columns import (
    REQUIRED_OF_SIGNAL,
    REQUIRED_OF_TRADE,
    Layout,
    WrongColumns,
)
from worker.importing.tables import SourceRow, SourceTable

#: Beside the reasons of dead letters: a trade is not sent where its signal was refused.
SIGNAL_REFUSED = "signal_refused"
#: What an id that is made from a row is made from.
_IDENTITY = ("symbol", "timestamp", "signal_type", "direction")
_NUMBERS = frozenset((*SIGNAL_NUMBERS, *TRADE_NUMBERS))
_TOLD_EVERY = 500


class PastEvent(NamedTuple):
    """An event of a file, fit for its stream."""

    at_us: int
    place: str
    event: SignalCreated | TradeClosed
    data: bytes


class RefusedRow(NamedTuple):
    """A row, or the event that was made of it, that was refused."""

    place: str
    reason: str
    detail: str


@dataclass(slots=True)
class History:
    """What files hold: events in the order of time, and what of them is none.

    Attributes:
        signals, trades: of each id, and of each revision of it, one.
        refused: with the reason.
        rows: how many were read.
        repeated: rows that say again what another one says.
        naive: times without an offset.
        passed_over: columns that are no field, by file.
    """

    signals: list[PastEvent] = field(default_factory=list)
    trades: list[PastEvent] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    rows: int = 0
    repeated: int = 0
    naive: int = 0
    passed_over: dict[str, list[str]] = field(default_factory=dict)


def read_history(
    tables: Sequence[SourceTable],
    layout: Layout,
    *,
    now: datetime,
    limits: Limits,
    progress: Callable[[int], None] = lambda _: None,
) -> History:
    """The events of all rows.

    A row has a signal, a trade, or both. Where no column holds ids, a signal's id is made from its symbol, time, type
    and direction: the same row has the same id at every import.

    Args:
        tables: the files.
        layout: how they are written.
        now: the present.
        limits: what the worker's door lets in.
        progress: told how many rows were read since it was last told.

    Raises:
        WrongColumns: a file has neither signals nor trades.
    """
    history, cells = History(), Cells(layout)
    seen = _Seen(history)
    plans = [(table, _Plan(table, layout, several=len(tables) > 1)) for table in tables]
    if any(plan.has_signals and not plan.has_trades for _, plan in plans):
        for _, plan in plans:
            plan.has_signals = plan.has_signals and not plan.has_trades  # a file of signals, and one of their trades
    for table, plan in plans:
        if plan.unused:
            history.passed_over[table.name] = plan.unused
        for number, row in enumerate(table.rows, start=1):
            _read(row, plan, cells, seen, now, limits)
            if number % _TOLD_EVERY == 0:
                progress(_TOLD_EVERY)
        progress(len(table.rows) % _TOLD_EVERY)
        history.rows += len(table.rows)
    seen.refuse_impossible_trades()
    history.signals.sort(key=lambda one: one.at_us)
    history.trades.sort(key=lambda one: one.at_us)
    history.naive = cells.naive
    return history


class _Plan:
    """Which cells of a file's rows make which events."""

    def __init__(self, table: SourceTable, layout: Layout, *, several: bool) -> None:
        self._places = layout.places(table.header)
        self.constants = dict(layout.values)
        self._name = table.name if several else ""
        there = {*self._places, *self.constants}
        self.has_trades = there.issuperset(REQUIRED_OF_TRADE)
        self.has_signals = {"timestamp", "symbol"} <= set(self._places) and there.issuperset(REQUIRED_OF_SIGNAL)
        self._check(table, there)
        self.signal_places = self._of(SINGLE_SIGNAL_FIELDS, features=True)
        self.trade_places = self._of(SINGLE_TRADE_FIELDS)
        self.unused = [name for place, name in enumerate(table.header) if place not in self._places.values()]

    def _of(self, names: Sequence[str], *, features: bool = False) -> dict[str, int]:
        return {
            name: place
            for name, place in self._places.items()
            if name in names or (features and name.startswith("features."))
        }

    def _check(self, table: SourceTable, there: set[str]) -> None:
        columns = f"its columns are {', '.join(map(repr, table.header))}"
        how = "say --map FIELD=COLUMN, or --set FIELD=VALUE where it is the same for all"
        of_signal = [name for name in REQUIRED_OF_SIGNAL if name not in there]
        of_trade = [name for name in REQUIRED_OF_TRADE if name not in there]
        if not self.has_signals and not self.has_trades:
            lacking = f"signals lack {', '.join(of_signal)}, and trades lack {', '.join(of_trade)}"
            raise WrongColumns(f"{table.name}: {lacking}: {how}; {columns}")
        if not self.has_signals and "signal_id" not in there and not there.issuperset(_IDENTITY[:3]):
            raise WrongColumns(f"{table.name}: trades lack signal_id, which says what they are of: {how}; {columns}")

    def place(self, row: SourceRow) -> str:
        """Where a row is, for people."""
        return f"{self._name} row {row.number}".strip()


def _read(row: SourceRow, plan: _Plan, cells: Cells, seen: _Seen, now: datetime, limits: Limits) -> None:
    place = plan.place(row)
    signal_id = cells.text(row.cells[plan.signal_places["signal_id"]]) if "signal_id" in plan.signal_places else None
    try:
        if plan.has_signals:
            fields = dict(_fields(row, plan.signal_places, plan.constants, SINGLE_SIGNAL_FIELDS, cells))
            signal_id = fields.setdefault("signal_id", signal_id or _derived_id(fields))
            seen.add(_event("signal.created", fields, place, now, limits))
        elif signal_id is None:
            signal_id = _derived_id(dict(_fields(row, plan.signal_places, plan.constants, SINGLE_SIGNAL_FIELDS, cells)))
        if plan.has_trades:
            fields = dict(_fields(row, plan.trade_places, plan.constants, SINGLE_TRADE_FIELDS, cells))
            if plan.has_signals and not fields.keys() & {*REQUIRED_OF_TRADE}:
                return  # a trade that is still open
            fields.setdefault("signal_id", signal_id)
            seen.add(_event("trade.closed", fields, place, now, limits))
    except EventError as error:
        seen.refuse(signal_id, RefusedRow(place, error.reason.value, error.detail))


def _fields(
    row: SourceRow, places: Mapping[str, int], constants: Mapping[str, str], names: Sequence[str], cells: Cells
) -> Iterator[tuple[str, Any]]:
    """The fields of an event that a row gives a value, features together."""
    features: dict[str, float] = {}
    given = [(name, row.cells[place]) for name, place in places.items()]
    given += [(name, value) for name, value in constants.items() if name in names]
    for name, cell in given:
        if name.startswith("features."):
            if (number := cells.number(name, cell)) is not None:
                features[name.removeprefix("features.")] = number
        elif (value := _value(name, cell, cells)) is not None:
            yield name, value
    if features:
        yield "features", features


def _value(name: str, cell: Any, cells: Cells) -> Any:
    if name in _NUMBERS:
        return cells.number(name, cell)
    if name in ("timestamp", "closed_at"):
        return cells.moment(name, cell)
    if name in ("asset_class", "signal_type"):
        return cells.label(cell)
    return cells.side(name, cell) if name == "direction" else cells.text(cell)


def _derived_id(fields: Mapping[str, Any]) -> str:
    said = {"direction": "long"} | dict(fields)
    at = said.get("timestamp")
    moment = at.astimezone(UTC).isoformat() if isinstance(at, datetime) else at
    parts = [moment if name == "timestamp" else said.get(name) for name in _IDENTITY]
    return f"imported-{blake2b(orjson.dumps(parts), digest_size=12).hexdigest()}"


def _event(kind: EventKind, fields: dict[str, Any], place: str, now: datetime, limits: Limits) -> PastEvent:
    said = {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
    }
    try:
        data = orjson.dumps(said)
    except orjson.JSONEncodeError as error:
        raise DecodeError(Reason.BAD_ENCODING, str(error)) from None
    event = decode(kind, data, now=now, limits=limits).event
    at_us = event.timestamp_us if isinstance(event, SignalCreated) else event.closed_at_us
    return PastEvent(at_us, place, event, data)


class _Seen:
    """What was read so far, to tell what is said twice, and what says something else under one id."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._signals: dict[str, PastEvent] = {}
        self._trades: dict[tuple[str, int], PastEvent] = {}
        self._refused_ids: set[str] = set()

    def refuse(self, signal_id: str | None, row: RefusedRow) -> None:
        self._history.refused.append(row)
        if signal_id is not None and signal_id not in self._signals:
            self._refused_ids.add(signal_id)

    def add(self, one: PastEvent) -> None:
        """Keep an event, unless another one stands for it.

        Raises:
            EventError: the other one says something else.
        """
        event = one.event
        if isinstance(event, SignalCreated):
            before = self._signals.setdefault(event.signal_id, one)
            if before is one:
                self._history.signals.append(one)
            elif isinstance(before.event, SignalCreated) and before.event.digest != event.digest:
                hint = "; a column of ids tells them apart" if event.signal_id.startswith("imported-") else ""
                raise DecodeError(
                    Reason.IDENTITY_CONFLICT, f"signal_id: {before.place} is {event.signal_id} with other content{hint}"
                )
        else:
            before = self._trades.setdefault((event.signal_id, event.revision), one)
            if before is one:
                self._history.trades.append(one)
            elif before.event != event:
                raise DecodeError(
                    Reason.OUTCOME_CONFLICT,
                    f"revision: {before.place} is revision {event.revision} of {event.signal_id} with other content",
                )
        self._history.repeated += before is not one

    def refuse_impossible_trades(self) -> None:
        """Take out the trades that closed before their signal, and those whose signal was refused."""
        kept = []
        for trade in self._history.trades:
            signal = self._signals.get(trade.event.signal_id)
            if signal is not None and trade.at_us < signal.at_us:
                why = RefusedRow(
                    trade.place,
                    Reason.CLOSED_BEFORE_SIGNAL.value,
                    f"closed_at: {trade.event.signal_id} closed before its signal was known",
                )
            elif signal is None and trade.event.signal_id in self._refused_ids:
                why = refused_with_signal(trade)
            else:
                kept.append(trade)
                continue
            self._history.refused.append(why)
        self._history.trades = kept


def refused_with_signal(trade: PastEvent) -> RefusedRow:
    """A trade that is not sent: it would wait for its signal for ever."""
    return RefusedRow(
        trade.place, SIGNAL_REFUSED, f"signal_id: the signal {trade.event.signal_id} of this trade was refused"
    )
