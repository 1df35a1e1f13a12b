"""Signals as a table that spreadsheets open: what producers wrote stays text there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from trading_system.ml_refinement.storage.tables.signals import FoundSignal

_TEXTS = ("signal_id", "timestamp", "symbol", "asset_class", "signal_type", "model_id")
_HEAD = (*_TEXTS, "quality_score", "r_multiple", "complete")
#: A cell that begins so is a formula, or becomes one once blanks are cut.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_lines(rows: Iterable[FoundSignal]) -> Iterator[str]:
    """A heading and a line for each signal, times in UTC."""
    yield _line(_HEAD)
    for row in rows:
        texts = [safe_cell(getattr(row, name)) for name in _TEXTS]
        yield _line((*texts, row.quality_score, row.target_r, int(row.complete)))


def safe_cell(text: str | None) -> str:
    """Text that no spreadsheet takes for a formula: one that could be begins with an apostrophe."""
    return f"'{text}" if text and text.lstrip(" ").startswith(_FORMULA) else text or ""


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
