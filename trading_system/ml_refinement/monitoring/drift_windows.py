"""Which signals drift is measured between: the newest, and those that the champion was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.monitoring.drift import WINDOW_DAYS, FeatureDrift, column_drift
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.vectors import RecentRows
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us, us_from_text

_MOST_ROWS = 5_000
_WINDOW_ROWS = 60
_WINDOWS_BEFORE = 4


@dataclass(frozen=True, slots=True)
class DriftWindows:
    """The rows before, the recent ones, and how long a time the recent ones span."""

    names: tuple[str, ...]
    before: RecentRows
    recent: RecentRows
    window_us: int

    def features(self) -> list[FeatureDrift]:
        """Each feature of the recent rows against those before, farthest beyond its limit first."""
        before, recent = self.before, self.recent
        return column_drift(self.names, before.X, before.timestamp_us, recent.X, window_us=self.window_us)


def read_drift_windows(
    db: FeatureDatabase, *, train_window_days: int, names: Sequence[str], feature_version: str
) -> DriftWindows | None:
    """The newest window of signals, and before it what the champion was trained on, or as long a time.

    A window is 63 days; where signals are rare, what the newest 60 of them took. At most 5,000 rows are read of either
    side, whatever the size of the store. None where there is no signal.

    Args:
        db: the store.
        train_window_days: of the configuration.
        names: the features, in the pipeline's order.
        feature_version: the features' version; vectors of another are not looked at.
    """
    newest = db.signals.newest()
    if newest is None:
        return None
    border_us = us_from_text(newest) - WINDOW_DAYS * DAY_US
    earlier = db.signals.nth_newest(_WINDOW_ROWS)
    if earlier is not None:
        border_us = min(border_us, us_from_text(earlier) - 1)
    window_us = us_from_text(newest) - border_us
    before_us = max(train_window_days * DAY_US, _WINDOWS_BEFORE * window_us)
    start, border = text_from_us(border_us - before_us), text_from_us(border_us)
    end = border
    active = db.models.active(ModelType.SIGNAL_QUALITY)
    about = active.metadata if active is not None else None
    if about is not None and about.train_end_date and about.train_end_date < border:
        start, end = min(about.train_start_date, start), about.train_end_date

    def read(low: str, high: str) -> RecentRows:
        return db.vectors.between(low, high, names=names, feature_version=feature_version, limit=_MOST_ROWS)

    return DriftWindows(tuple(names), read(start, end), read(border, newest), window_us)


def feature_drift(
    db: FeatureDatabase, *, train_window_days: int, names: Sequence[str], feature_version: str
) -> list[FeatureDrift]:
    """How far each feature has moved, as `DriftWindows.features` tells; empty with too few signals on either side."""
    windows = read_drift_windows(db, train_window_days=train_window_days, names=names, feature_version=feature_version)
    return windows.features() if windows is not None else []
