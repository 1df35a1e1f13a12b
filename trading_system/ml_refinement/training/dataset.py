"""The rows a training sees, and what must be true of them before anything is fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from trading_system.ml_refinement.labelling.rules import LabellingRule
from trading_system.ml_refinement.models.errors import (
    BadData,
    LabelAmongFeatures,
    NoUsableFeatures,
    OneClass,
    TooFewSamples,
)
from trading_system.ml_refinement.models.selection import usable_columns
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualRows
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, StringArray, TimeArray

#: A single feature that separates wins from losses better than this is the label in disguise ...
LEAK_AUC = 0.8
#: ... unless so few rows say so that chance could.
_LEAK_ERRORS = 4.0


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled rows of one feature version in time order.

    `X` is (n, n_features), NaN where missing; `r` the R-multiples; `entered_us` when each signal was known and
    `known_us` when its outcome was, microseconds. `left_out` counts what was not used, by reason.
    """

    X: FloatArray
    r: FloatArray
    names: tuple[str, ...]
    signal_ids: StringArray
    entered_us: TimeArray
    known_us: TimeArray
    left_out: dict[str, int]
    #: Of each row, shape (n,); None: not known.
    signal_types: StringArray | None = None
    #: Rows whose outcome is a virtual one, shape (n,); None: no virtual outcome was asked for.
    virtual: BoolArray | None = None

    @property
    def won(self) -> BoolArray:
        """R above 0, shape (n,)."""
        return self.r > 0

    @property
    def reported(self) -> BoolArray:
        """Rows whose outcome was reported, shape (n,): all of them but where virtual outcomes fill in."""
        return np.ones(len(self.r), dtype=bool) if self.virtual is None else ~self.virtual

    def types_of(self, rows: IndexArray) -> StringArray | None:
        """Signal types of some of the rows, by position, shape (n_rows,); None where types are not known."""
        return None if self.signal_types is None else self.signal_types[rows]

    def digest(self) -> str:
        """SHA-256 over everything a fit depends on."""
        hasher = hashlib.sha256("\0".join((*self.names, *self.signal_ids)).encode())
        for array in (self.X, self.r, self.entered_us, self.known_us):
            hasher.update(np.ascontiguousarray(array).tobytes())
        if self.signal_types is not None:
            hasher.update("\0".join(self.signal_types.tolist()).encode())
        if self.virtual is not None:
            hasher.update(self.virtual.tobytes())
        return hasher.hexdigest()


def read_dataset(
    db: FeatureDatabase,
    *,
    names: Sequence[str],
    feature_version: str,
    now_us: int,
    start: str | None = None,
    virtual: LabellingRule | None = None,
) -> Dataset:
    """Every labelled and complete row of a feature version whose outcome was known by `now_us`.

    `start` leaves out signals from before it, as `parse_bound` reads it. With `virtual`, the rows without a reported
    outcome are there too that have a virtual one of this rule.

    Rows told twice under different ids (same time, type, features and outcome) count once.
    """
    data = _reported(db, names, feature_version, now_us, start)
    if virtual is None:
        return data
    rows = virtual.rows(db, feature_version=feature_version, names=names, start=start)
    return _filled(data, rows, now_us)


def _reported(
    db: FeatureDatabase, names: Sequence[str], feature_version: str, now_us: int, start: str | None
) -> Dataset:
    matrix = db.vectors.training_matrix(feature_version=feature_version, names=names, start=start)
    future = matrix.label_us > now_us
    told = pd.DataFrame(np.column_stack([matrix.X, matrix.r])).assign(
        entered=matrix.timestamp_us, signal_type=matrix.signal_types
    )
    repeated = told.duplicated().to_numpy() & ~future
    keep = np.flatnonzero(~future & ~repeated)
    return Dataset(
        X=np.ascontiguousarray(matrix.X[keep]),
        r=matrix.r[keep],
        names=tuple(names),
        signal_ids=np.array(matrix.signal_ids, dtype=np.str_)[keep],
        entered_us=matrix.timestamp_us[keep],
        known_us=matrix.label_us[keep],
        left_out={
            "incomplete": matrix.incomplete,
            "outcome_in_the_future": int(future.sum()),
            "repeated": int(repeated.sum()),
        },
        signal_types=matrix.signal_types[keep],
    )


def _filled(data: Dataset, rows: VirtualRows, now_us: int) -> Dataset:
    """The reported rows with the virtual ones among them, in order of time.

    A virtual row that was told before, under another id, is left out: its signal was one with another, and its outcome
    is that one's.
    """
    entered = np.concatenate([data.entered_us, rows.timestamp_us])
    X = np.concatenate([data.X, rows.X])
    virtual = np.arange(len(X)) >= len(data.r)
    known = np.concatenate([data.known_us, rows.known_us])
    future = virtual & (known > now_us)
    types = np.concatenate([_types(data), rows.signal_types])
    told = pd.DataFrame(X).assign(entered=entered, signal_type=types).duplicated().to_numpy()
    repeated = virtual & ~future & told
    ids = np.concatenate([data.signal_ids, np.array(rows.signal_ids, dtype=np.str_)])
    keep = np.lexsort((ids, entered))
    keep = keep[~(future | repeated)[keep]]
    return Dataset(
        X=np.ascontiguousarray(X[keep]),
        r=np.concatenate([data.r, rows.r])[keep],
        names=data.names,
        signal_ids=ids[keep],
        entered_us=entered[keep],
        known_us=known[keep],
        left_out=data.left_out | {"virtual_in_the_future": int(future.sum()), "virtual_repeated": int(repeated.sum())},
        signal_types=types[keep],
        virtual=virtual[keep],
    )


def _types(data: Dataset) -> StringArray:
    return np.full(len(data.r), "", dtype=np.str_) if data.signal_types is None else data.signal_types


def shortage(data: Dataset, *, min_samples: int) -> str | None:
    """How many rows there are of how many, and what was left out, where they are too few; else None."""
    if len(data.r) >= min_samples:
        return None
    left_out = ", ".join(f"{count} {what}" for what, count in data.left_out.items() if count)
    return f"{len(data.r)} of {min_samples} samples" + (f"; left out: {left_out}" if left_out else "")


def check_dataset(data: Dataset, *, min_samples: int) -> None:
    """Refuse what nothing honest can be learned from.

    Raises:
        TooFewSamples, OneClass, NoUsableFeatures, LabelAmongFeatures: as named.
        BadData: a value is infinite, or an outcome was known before its signal.
    """
    if missing := shortage(data, min_samples=min_samples):
        raise TooFewSamples(missing)
    if not np.isfinite(data.r).all() or np.isinf(data.X).any() or (data.known_us < data.entered_us).any():
        raise BadData("a value is not finite, or an outcome was known before its signal")
    wins = int(data.won.sum())
    if wins in (0, len(data.r)):
        raise OneClass(f"all {len(data.r)} trades {'won' if wins else 'lost'}")
    if not len(usable_columns(data.X)):
        raise NoUsableFeatures(f"all {len(data.names)} features are constant or missing")
    suspects = suspicious_features(data)
    if suspects:
        raise LabelAmongFeatures("; ".join(f"{name} alone has AUC {auc:.3f}" for name, auc in suspects))


def suspicious_features(data: Dataset) -> list[tuple[str, float]]:
    """Features whose own AUC, either way round, is above `LEAK_AUC`, by value or by being missing."""
    won = data.won
    wins, losses = int(won.sum()), int((~won).sum())
    missing = np.isnan(data.X)
    filled = np.where(missing, np.inf, data.X)
    found: dict[str, float] = {}
    for values in (filled, np.where(missing, -np.inf, data.X)):
        ranks = rankdata(values, axis=0)
        auc = (ranks[won].sum(axis=0) - wins * (wins + 1) / 2.0) / (wins * losses)
        for column in np.flatnonzero(_beyond(np.abs(auc - 0.5), wins, losses)):
            found[data.names[column]] = float(max(auc[column], 1.0 - auc[column]))
    return sorted(found.items())


def _beyond(edge: FloatArray, wins: int, losses: int) -> BoolArray:
    error = np.sqrt((wins + losses + 1.0) / (12.0 * wins * losses))
    return np.asarray((edge > LEAK_AUC - 0.5) & (edge > _LEAK_ERRORS * error))
