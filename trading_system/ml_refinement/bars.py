"""Price bars of one symbol as columns of numbers, with the cut that keeps later bars out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from trading_system.ml_refinement.typing import BoolArray, FloatArray, TimeArray

if TYPE_CHECKING:
    import pandas as pd  # where it is used it is loaded: it takes long, and the worker has no frames


PRICES = ("open", "high", "low", "close")


class BarsError(ValueError):
    """Bars that break a rule. `code` is one of a closed list:

    `missing_column`, `bad_timestamp`, `not_a_number` (a value that is no finite number), `unequal_lengths`, `unsorted`
    (times that do not strictly increase, doubled ones included), `price_not_positive`, `negative_volume`,
    `high_below_low`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Columns of equal length, oldest bar first; `timestamp` is the bar's close in microseconds since the epoch, UTC.

    The constructor takes arrays as they are: whoever has bars from outside builds them with `from_columns` or
    `from_frame`, or calls `check`. Slices are views; nobody writes into them.
    """

    timestamp: TimeArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __len__(self) -> int:
        return self.timestamp.size

    @classmethod
    def empty(cls) -> Bars:
        """No bars."""
        return cls(np.empty(0, np.int64), *(np.empty(0) for _ in range(5)))

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike]) -> Bars:
        """Checked bars from a mapping with the six fields; other keys are passed over, `timestamp` is in microseconds.

        Raises:
            BarsError: a column is missing or a rule is broken.
        """
        missing = [field.name for field in fields(cls) if field.name not in columns]
        if missing:
            raise BarsError("missing_column", ", ".join(missing))
        numbers = {name: _numbers(name, columns[name]) for name in (*PRICES, "volume")}
        return cls(_instants(columns["timestamp"]), **numbers).check()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Bars:
        """Checked bars from a frame with the columns open, high, low, close, volume.

        The times are a `timestamp` column or else the index: datetimes or text, where naive means UTC, or increasing
        integers, which count as they are (a frame without times then still has an order).

        Raises:
            BarsError: a column is missing or a rule is broken.
        """
        given = {str(name): frame[name].to_numpy() for name in frame.columns if name != "timestamp"}
        times = frame["timestamp"] if "timestamp" in frame else frame.index.to_series()
        return cls.from_columns({**given, "timestamp": _frame_times(times)})

    def to_frame(self) -> pd.DataFrame:
        """A frame with the five columns and the close times (UTC) as its index."""
        import pandas as pd  # takes long to load, and the worker has no frames

        index = pd.DatetimeIndex(self.timestamp.astype("datetime64[us]"), name="timestamp").tz_localize("UTC")
        return pd.DataFrame({name: getattr(self, name) for name in (*PRICES, "volume")}, index=index)

    def as_of(self, us: int) -> Bars:
        """The bars that had closed at `us`, as views."""
        return self.first(int(self.timestamp.searchsorted(us, side="right")))

    def first(self, count: int) -> Bars:
        """The oldest `count` bars, as views."""
        return self._cut(slice(0, count))

    def tail(self, count: int) -> Bars:
        """The newest `count` bars, as views."""
        return self._cut(slice(max(len(self) - count, 0), None))

    def check(self) -> Bars:
        """These bars, when they keep every rule.

        The rules are those of the event contract plus what a price is: columns of equal length, strictly increasing
        times, finite numbers, prices above 0, volume not below 0, high not below low. (That open and close lie within
        the range is not demanded: sources that adjust prices break it by a rounding.)

        Raises:
            BarsError: the first rule broken, with the position of the bar.
        """
        lengths = {field.name: getattr(self, field.name).size for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise BarsError("unequal_lengths", ", ".join(f"{name} {size}" for name, size in lengths.items()))
        _refuse("unsorted", np.diff(self.timestamp) <= 0, "timestamp", first=1)
        for name in (*PRICES, "volume"):
            _refuse("not_a_number", ~np.isfinite(getattr(self, name)), name)
        for name in PRICES:
            _refuse("price_not_positive", getattr(self, name) <= 0, name)
        _refuse("negative_volume", self.volume < 0, "volume")
        _refuse("high_below_low", self.high < self.low, "high")
        return self

    def _cut(self, rows: slice) -> Bars:
        return Bars(
            self.timestamp[rows],
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
        )


def _refuse(code: str, broken: BoolArray, column: str, first: int = 0) -> None:
    if broken.any():
        raise BarsError(code, f"{column} of bar {int(broken.argmax()) + first}")


def _numbers(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise BarsError("not_a_number", f"{name} is not a column of numbers")
    return np.ascontiguousarray(array, dtype=np.float64)


def _instants(values: ArrayLike) -> TimeArray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise BarsError("bad_timestamp", "timestamp is not a column of whole microseconds")
    return np.ascontiguousarray(array, dtype=np.int64)


def _frame_times(times: pd.Series[Any]) -> TimeArray:
    import pandas as pd  # takes long to load, and the worker has no frames

    if times.dtype.kind in "iu":
        return times.to_numpy(dtype=np.int64)
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(times, utc=True, format="ISO8601"))
    except (ValueError, TypeError) as error:
        raise BarsError("bad_timestamp", str(error)) from error
    if stamps.hasnans:
        raise BarsError("bad_timestamp", "a time is missing")
    return stamps.as_unit("us").asi8
