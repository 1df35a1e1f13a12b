"""Scaling of features by name, fitted on training rows only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: What a fitted scaler calls the numbers of each method; the first is subtracted.
_LEARNED = {
    "standard": {"mean": "mean_", "std": "scale_"},
    "minmax": {"min": "data_min_", "max": "data_max_"},
    "robust": {"median": "center_", "iqr": "scale_"},
}
_METHODS = {"standard": "StandardScaler", "minmax": "MinMaxScaler", "robust": "RobustScaler"}


class FeatureScaler:
    """scikit-learn's scalers over dictionaries of features.

    "standard" is zero mean and unit variance, "minmax" is 0 to 1, "robust" is median and interquartile range. A feature
    that does not vary is only shifted. Missing values (NaN) are left out of the fit and stay missing.
    """

    def __init__(self, method: str = "standard") -> None:
        """Choose the method.

        Raises:
            ValueError: it is none of the three.
        """
        if method not in _METHODS:
            raise ValueError(f"scaling_method: {method!r} is none of {', '.join(_METHODS)}")
        self.method = method
        self.fitted = False
        #: By feature what it is scaled by; set it, and `fitted`, to scale as another scaler did.
        self._params: dict[str, dict[str, float]] = {}

    def fit(self, feature_data: Mapping[str, Sequence[float]]) -> None:
        """Learn the scaling from columns of equal length.

        Raises:
            ValueError: there is nothing to fit, lengths differ, or a value is infinite.
        """
        if len({len(values) for values in feature_data.values()}) != 1:
            raise ValueError("features to fit on must be columns of one length, at least one of them")
        scaler = _scaler(self.method)
        scaler.fit(np.column_stack([np.asarray(values, np.float64) for values in feature_data.values()]))
        learned = {name: getattr(scaler, attribute).tolist() for name, attribute in _LEARNED[self.method].items()}
        self._params = {
            feature: {name: values[at] for name, values in learned.items()} for at, feature in enumerate(feature_data)
        }
        self.fitted = True

    def transform(self, features: Mapping[str, float]) -> dict[str, float]:
        """Scaled values; before a fit everything, after it what was not fitted, is returned as it is."""
        if not self.fitted:
            return dict(features)
        return {name: self._scaled(value, self._params.get(name)) for name, value in features.items()}

    def _scaled(self, value: float, by: Mapping[str, float] | None) -> float:
        if by is None:
            return value
        centre, spread = by.values() if self.method != "minmax" else (by["min"], by["max"] - by["min"])
        return float((value - centre) / (spread or 1.0))

    def fit_transform(self, feature_data: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
        """Fit on columns, and give them back scaled, as one dictionary a row."""
        self.fit(feature_data)
        rows = zip(*feature_data.values(), strict=True)
        return [self.transform(dict(zip(feature_data, row, strict=True))) for row in rows]


def _scaler(method: str) -> Any:
    from sklearn import preprocessing  # takes seconds to load, and whoever computes features does not scale

    return getattr(preprocessing, _METHODS[method])()
