"""Which bars the market-data source lacks, as the dead letters that wait for them tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase
from trading_system.ml_refinement.storage.tables.dead_letters import Filter
from trading_system.ml_refinement.storage.times import text_from_us
from worker.errors import DecodeError, Reason
from worker.events.decoding import decode_kept

_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class MissingBars:
    """A symbol whose signals wait for bars: how many, of which times, and what was wrong with the newest of them."""

    symbol: str
    reason: str
    signals: int
    first: str
    last: str
    detail: str


def missing_bars(store: FeatureDatabase) -> list[MissingBars]:
    """What the open dead letters wait for, by symbol; the symbol with the most signals first."""
    found: dict[tuple[str, str], MissingBars] = {}
    for reason in (Reason.NO_MARKET_DATA, Reason.BAD_MARKET_DATA):
        for letter in _letters(store, reason):
            try:
                signal = decode_kept(letter.edited or letter.payload or b"")
            except DecodeError:
                continue  # an edit has made it something else
            at = text_from_us(signal.timestamp_us)
            before = found.get((signal.symbol, reason))
            found[signal.symbol, reason] = MissingBars(
                signal.symbol,
                reason.value,
                1 + (before.signals if before else 0),
                min(at, before.first) if before else at,
                max(at, before.last) if before else at,
                letter.error,
            )
    return sorted(found.values(), key=lambda one: (-one.signals, one.symbol))


def _letters(store: FeatureDatabase, reason: Reason) -> Iterator[DeadLetterRow]:
    after = 0
    while rows := store.dead_letters.find(Filter(reason=reason.value), limit=_AT_ONCE, after_id=after, payloads=True):
        yield from rows
        after = rows[-1].id
