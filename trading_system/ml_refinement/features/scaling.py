"""Scaling of features by name, fitted on training rows only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
        self._names: list[str] = []
        self._scaler = _scaler(method)

    def fit(self, feature_data: Mapping[str, Sequence[float]]) -> None:
        """Learn the scaling from columns of equal length.

        Raises:
            ValueError: there is nothing to fit, lengths differ, or a value is infinite.
        """
        if len({len(values) for values in feature_data.values()}) != 1:
            raise ValueError("features to fit on must be columns of one length, at least one of them")
        self._scaler.fit(np.column_stack([np.asarray(values, np.float64) for values in feature_data.values()]))
        self._names = list(feature_data)
        self.fitted = True

    def transform(self, features: Mapping[str, float]) -> dict[str, float]:
        """Scaled values; before a fit everything, after it what was not fitted, is returned as it is."""
        if not self.fitted:
            return dict(features)
        row = np.array([[features.get(name, np.nan) for name in self._names]], dtype=np.float64)
        scaled = dict(zip(self._names, self._scaler.transform(row)[0].tolist(), strict=True))
        return {name: scaled.get(name, value) for name, value in features.items()}

    def fit_transform(self, feature_data: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
        """Fit on columns, and give them back scaled, as one dictionary a row."""
        self.fit(feature_data)
        table = np.column_stack([np.asarray(values, np.float64) for values in feature_data.values()])
        return [dict(zip(self._names, row, strict=True)) for row in self._scaler.transform(table).tolist()]


def _scaler(method: str) -> Any:
    from sklearn import preprocessing  # takes seconds to load, and whoever computes features does not scale

    return getattr(preprocessing, _METHODS[method])()
