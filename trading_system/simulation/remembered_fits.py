"""Fits that are not made twice, for whoever repeats many trainings on the same rows."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import fields
from typing import Any

import numpy as np

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.typing import IndexArray

#: Fits that are kept: those of the folds of one pool, with room to spare.
_KEPT = 64


class RememberedFits:
    """`fit_on` that does not repeat itself: trainings of one world share most of their folds.

    The key is the content of everything a fit sees, field by field of the dataset, so that what is remembered is what
    would be fitted, to the bit, whatever a dataset comes to hold.
    """

    def __init__(self) -> None:
        self._models: OrderedDict[bytes, SignalQualityModel] = OrderedDict()
        self.asked = self.fitted = 0

    def __call__(self, data: Dataset, rows: IndexArray, config: MLConfig, **arguments: Any) -> SignalQualityModel:
        told = {name: value for name, value in arguments.items() if name != "clock"}
        hasher = hashlib.blake2b(repr((len(rows), config, data.names, sorted(told.items()))).encode(), digest_size=16)
        for item in fields(data):
            value = getattr(data, item.name)
            if isinstance(value, np.ndarray):
                hasher.update(np.ascontiguousarray(value[rows]).tobytes())
        key = hasher.digest()
        self.asked += 1
        if key not in self._models:
            self.fitted += 1
            self._models[key] = backtest.fit_on(data, rows, config, **arguments)
        self._models.move_to_end(key)
        while len(self._models) > _KEPT:
            self._models.popitem(last=False)
        return self._models[key]
