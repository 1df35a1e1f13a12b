"""Price bars of one symbol as columns of numbers, with the cut that keeps later bars out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trading_system.ml_refinement.bar_limits import COLUMNS, PRICE_MAX, PRICE_MIN, PRICES, ROUNDING, VOLUME_MAX
from trading_system.ml_refinement.time_units import no_microseconds, no_order
from trading_system.ml_refinement.typing import BoolArray, FloatArray, TimeArray

if TYPE_CHECKING:
    import pandas as pd  # where it is used it is loaded: it takes long, and the worker has no frames

#: The rows of the matrix that `Bars.from_matrix` takes: "between low and high" is two comparisons of two rows each.
MATRIX_ROWS = ("open", "close", "high", "low", "volume")

_PRICES = f"allowed: {PRICE_MIN:g} to {PRICE_MAX:g}"

BarsFault = Literal[
    "missing_column",
    "bad_timestamp",
    "bad_time_unit",  # whole numbers that are no microseconds since 1970, and in an index no positions
    "unequal_lengths",
    "unsorted",  # times that do not strictly increase, doubled ones included
    "not_a_number",  # a value that is no finite number
    "price_not_positive",
    "negative_volume",
    "high_below_low",
    "absurd_price",
    "absurd_volume",
    "not_enclosed",  # an open or a close that is not between low and high
]


class BarsError(ValueError):
    """Bars that break a rule.

    Attributes:
        code: which rule.
        detail: where; with the code before it, it is the message.
    """

    def __init__(self, code: BarsFault, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class BrokenRule(NamedTuple):
    """A rule that some bars break, in which columns, and where: `rows` has shape (n,), True for those bars."""

    code: BarsFault
    columns: tuple[str, ...]
    rows: BoolArray
    what: str

    def __str__(self) -> str:
        return f"{self.what} bar {int(self.rows.argmax())}"


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Columns of shape (n,), oldest bar first; `timestamp` is the bar's close in microseconds since the epoch, UTC.

    The constructor takes arrays as they are: whoever has bars from outside builds them with `from_columns`,
    `from_matrix` or `from_frame`, or calls `check`. Slices are views; nobody writes into them.
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
        """Checked bars from a mapping with the six columns, each of shape (n,).

        Other keys are passed over; `timestamp` is in microseconds.

        Raises:
            BarsError: a column is missing or a rule is broken, or the times are in another unit.
        """
        if "timestamp" in columns:
            _refuse_unit(_instants(columns["timestamp"]), no_microseconds)
        return cls._from_columns(columns, enclosed=True)

    @classmethod
    def _from_columns(cls, columns: Mapping[str, ArrayLike], enclosed: bool) -> Bars:
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise BarsError("missing_column", ", ".join(missing))
        numbers = {name: _numbers(name, columns[name]) for name in MATRIX_ROWS}
        bars = cls(_instants(columns["timestamp"]), **numbers)
        alike = len({column.size for column in numbers.values()}) == 1
        sound = alike and _is_sound(bars.timestamp, np.array([*numbers.values()]))
        return bars if sound else bars.check(enclosed=enclosed)

    @classmethod
    def from_matrix(cls, timestamp: TimeArray, matrix: FloatArray) -> Bars:
        """Checked bars whose columns are views: the same rules as `check`, quickest where none is broken.

        Args:
            timestamp: shape (n,).
            matrix: shape (5, n), rows as in `MATRIX_ROWS`.

        Raises:
            BarsError: the first rule broken, with the position of the bar.
        """
        open_, close, high, low, volume = matrix
        bars = cls(timestamp, open_, high, low, close, volume)
        return bars if _is_sound(timestamp, matrix) else bars.check()

    @classmethod
    def from_matrices(
        cls, timestamp: TimeArray, matrix: FloatArray, parts: Sequence[tuple[int, int]]
    ) -> list[Bars | None]:
        """Several bars whose columns stand side by side, each as `from_matrix` makes it, or None where that refuses.

        Args:
            timestamp: shape (n,).
            matrix: shape (5, n), rows as in `MATRIX_ROWS`.
            parts: where each begins and ends; none is empty, and together they are all n.
        """
        sound = _is_sound(timestamp, matrix, [begin for begin, _ in parts[1:]])
        found: list[Bars | None] = []
        for begin, end in parts:
            times, (open_, close, high, low, volume) = timestamp[begin:end], matrix[:, begin:end]
            bars = cls(times, open_, high, low, close, volume)
            found.append(bars if sound or bars._keeps_rules() else None)
        return found

    def _keeps_rules(self) -> bool:
        return next(self.broken_rules(), None) is None

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, enclosed: bool = True) -> Bars:
        """Checked bars from a frame with the columns open, high, low, close, volume.

        The times are a `timestamp` column or else the index: datetimes or text, where naive means UTC, or in the column
        whole microseconds. An index of increasing integers is no time, only an order: the newest bar is then at 0 and
        the others count back from it, so that two such frames meet at their newest rows. Integers that are neither, as
        seconds and nanoseconds since 1970 are, and in an index also microseconds, are refused with their unit.

        Args:
            frame: one row a bar, oldest first.
            enclosed: whether open and close have to lie between low and high.

        Raises:
            BarsError: a column is missing or a rule is broken.
        """
        return cls.from_timed_frame(frame, frame_times(frame)[0], enclosed=enclosed)

    @classmethod
    def from_timed_frame(cls, frame: pd.DataFrame, times: TimeArray, *, enclosed: bool = True) -> Bars:
        """The same where `frame_times` of the frame, shape (n,), are known.

        Raises:
            BarsError: a column is missing or a rule is broken.
        """
        names = _names(_Identical(frame.columns))
        if names.order is None:
            return cls._from_columns({**_columns_of(frame, names.all), "timestamp": times}, enclosed)
        values = frame.to_numpy()  # a fifth of what a series of each column costs
        if values.dtype.kind not in "iuf" or times.dtype != np.int64:
            return cls._from_columns({**_columns_of(frame, names.all), "timestamp": times}, enclosed)
        matrix = np.ascontiguousarray(values.T.take(names.order, axis=0), dtype=np.float64)
        open_, close, high, low, volume = matrix
        bars = cls(times, open_, high, low, close, volume)
        return bars if _is_sound(times, matrix) else bars.check(enclosed=enclosed)

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

    def between(self, begin: int, end: int) -> Bars:
        """The bars from position `begin` to before `end`, as views."""
        return self._cut(slice(begin, end))

    def check(self, *, enclosed: bool = True) -> Bars:
        """These bars, when they keep every rule.

        Columns of equal length, strictly increasing times, finite numbers, prices from `PRICE_MIN` to `PRICE_MAX`,
        volumes from 0 to `VOLUME_MAX`, high not below low, and if `enclosed`, open and close between the two but for a
        rounding.

        Raises:
            BarsError: the first rule broken, with the position of the bar.
        """
        lengths = {name: getattr(self, name).size for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise BarsError("unequal_lengths", ", ".join(f"{name} {size}" for name, size in lengths.items()))
        for broken in self.broken_rules(enclosed=enclosed):
            raise BarsError(broken.code, str(broken))
        return self

    def broken_rules(self, *, enclosed: bool = True) -> Iterator[BrokenRule]:
        """The rules of `check` that columns of equal length break, in its order; those of a bar's values by column."""
        for rule in self._rules(enclosed):
            if rule.rows.any():
                yield rule

    def _rules(self, enclosed: bool) -> Iterator[BrokenRule]:
        yield BrokenRule(
            "unsorted", ("timestamp",), np.diff(self.timestamp, prepend=self.timestamp[:1] - 1) <= 0, "timestamp of"
        )
        for name in (*PRICES, "volume"):
            yield BrokenRule("not_a_number", (name,), ~np.isfinite(getattr(self, name)), f"{name} of")
        for name in PRICES:
            yield BrokenRule("price_not_positive", (name,), getattr(self, name) <= 0, f"{name} of")
        yield BrokenRule("negative_volume", ("volume",), self.volume < 0, "volume of")
        yield BrokenRule("high_below_low", ("high", "low"), self.high < self.low, "high of")
        for name in PRICES:
            price = getattr(self, name)
            yield BrokenRule(
                "absurd_price", (name,), (price < PRICE_MIN) | (price > PRICE_MAX), f"{name} is absurd ({_PRICES}),"
            )
        yield BrokenRule(
            "absurd_volume", ("volume",), self.volume > VOLUME_MAX, f"volume is absurd (allowed: 0 to {VOLUME_MAX:g}),"
        )
        slack = self.high * ROUNDING
        for name in ("open", "close") if enclosed else ():
            price = getattr(self, name)
            outside = (price < self.low - slack) | (price > self.high + slack)
            yield BrokenRule("not_enclosed", (), outside, f"{name} is not between low and high,")

    def _cut(self, rows: slice) -> Bars:
        return Bars(
            self.timestamp[rows],
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
        )


def _is_sound(timestamp: TimeArray, matrix: FloatArray, begins: Sequence[int] = ()) -> bool:
    """The rules at once, without slack. Comparisons are False for NaN; what is between sound numbers is sound.

    At each of `begins` the times begin anew.
    """
    if not timestamp.size or timestamp.size != matrix.shape[1]:
        return False
    rising = timestamp[1:] > timestamp[:-1]
    if begins:
        rising[np.array(begins) - 1] = True
    body, high, low = matrix[:2], matrix[2], matrix[3]
    low_min, volume_min = np.minimum.reduce(matrix[3:], axis=1)
    high_max, volume_max = np.maximum.reduce(matrix[2::2], axis=1)
    return bool(
        np.count_nonzero(body >= low) == body.size
        and np.count_nonzero(body <= high) == body.size
        and np.count_nonzero(rising) == rising.size
        and low_min >= PRICE_MIN
        and high_max <= PRICE_MAX
        and volume_min >= 0
        and volume_max <= VOLUME_MAX
    )


def frame_at(frame: pd.DataFrame, us: int) -> pd.DataFrame:
    """The rows of a frame whose bars had closed at `us`; all of them where it has no times.

    Raises:
        BarsError: its times cannot be read.
    """
    times, dated = frame_times(frame)
    return frame.iloc[: int(times.searchsorted(us, side="right"))] if dated else frame


class _Identical:
    """An index of columns, which nobody can change, by which one it is: to list its names takes long."""

    __slots__ = ("columns",)

    def __init__(self, columns: pd.Index[Any]) -> None:
        self.columns = columns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identical) and other.columns is self.columns

    def __hash__(self) -> int:
        return id(self.columns)


class _Names(NamedTuple):
    """The columns of a frame, and where those of `MATRIX_ROWS` are, if it has these alone."""

    all: list[Any]
    order: list[int] | None


@lru_cache(maxsize=16)
def _names(of: _Identical) -> _Names:
    names = of.columns.tolist()
    alone = len(names) == len(MATRIX_ROWS) and set(names) == set(MATRIX_ROWS)
    return _Names(names, [names.index(name) for name in MATRIX_ROWS] if alone else None)


def _columns_of(frame: pd.DataFrame, names: list[Any]) -> dict[str, ArrayLike]:
    return {name: frame[name].to_numpy() for name in MATRIX_ROWS if name in names}


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


def _refuse_unit(whole: TimeArray, wrong: Callable[[int, int], str]) -> None:
    if whole.size and (said := wrong(int(whole[0]), int(whole[-1]))):
        raise BarsError("bad_time_unit", said)


def frame_times(frame: pd.DataFrame) -> tuple[TimeArray, bool]:
    """The times of a frame's rows, shape (n,), as `Bars.from_frame` takes them, and whether they are times at all.

    Raises:
        BarsError: they cannot be read, or one is missing.
    """
    import pandas as pd  # takes long to load, and the worker has no frames

    dated = "timestamp" in _names(_Identical(frame.columns)).all
    if not dated and isinstance(frame.index, pd.DatetimeIndex):
        return _us_of(frame.index), True
    times = (frame["timestamp"] if dated else frame.index.to_series()).infer_objects()
    if times.ndim != 1 or times.dtype.kind in "fcbm":
        raise BarsError(
            "bad_timestamp", "no times but several columns" if times.ndim != 1 else f"no times but {times.dtype}"
        )
    if times.dtype.kind in "iu":
        whole = times.to_numpy(dtype=np.int64)
        _refuse_unit(whole, no_microseconds if dated else no_order)
        return (whole if dated else whole - whole[-1:]), dated
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(times, utc=True, format="ISO8601"))
    except (ValueError, TypeError, OverflowError) as error:
        raise BarsError("bad_timestamp", str(error)) from error
    return _us_of(stamps), True


def _us_of(stamps: pd.DatetimeIndex) -> TimeArray:
    """Microseconds since the epoch; what has no zone is UTC."""
    if stamps.hasnans:
        raise BarsError("bad_timestamp", "a time is missing")
    us: TimeArray = (stamps if stamps.unit == "us" else stamps.as_unit("us")).asi8
    return us
