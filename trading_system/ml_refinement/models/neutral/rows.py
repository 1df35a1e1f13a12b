"""What a fit is given beside features: outcomes, and of each row its type and when it was open, where that is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, StringArray, TimeArray


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows to fit on, in time order.

    `X` is (n, n_features), NaN where missing; `won` and `r`, the R-multiples, are (n,). `signal_types`, `entered_us`
    and `known_us`, when a trade was known to have closed, are (n,) or None where they are not known.
    """

    X: FloatArray
    won: BoolArray
    r: FloatArray
    signal_types: StringArray | None = None
    entered_us: TimeArray | None = None
    known_us: TimeArray | None = None

    def take(self, rows: IndexArray) -> TrainingRows:
        """Some of the rows, by position, shape (n_taken,)."""
        return TrainingRows(
            self.X[rows],
            self.won[rows],
            self.r[rows],
            None if self.signal_types is None else self.signal_types[rows],
            None if self.entered_us is None else self.entered_us[rows],
            None if self.known_us is None else self.known_us[rows],
        )

    def with_columns(self, columns: IndexArray) -> TrainingRows:
        """The same rows with some of the features, by position, shape (n_columns,)."""
        return replace(self, X=self.X[:, columns])

    def __len__(self) -> int:
        return len(self.won)
