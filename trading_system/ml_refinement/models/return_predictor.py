"""The R-multiple to expect of a signal."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.typing import FloatArray, StringArray


class ReturnPredictor(SignalQualityModel):
    """Expected R in two parts: P(win) times the winners' mean R, plus P(loss) times the losers', both winsorised.

    On signals as noisy as these a direct regressor of R does worse than the mean, and this does better.
    """

    _TYPE: ClassVar[ModelType] = ModelType.RETURN_PREDICTOR

    @classmethod
    def beside(cls, quality: SignalQualityModel) -> ReturnPredictor:
        """The return predictor that a fit on the same rows would give, without fitting again."""
        quality.to_bytes()  # refuses an unfitted model
        model = cls(quality.version)
        model_id = f"{cls._TYPE.value}_{quality.version}_{uuid.uuid4().hex[:8]}"
        model.__dict__.update(copy.deepcopy(quality.__dict__))
        model.model_type, model.model_id = cls._TYPE, model_id
        types = model._golden["signal_types"]
        types = None if types is None else np.array(types, dtype=np.str_)
        model._golden["answers"] = model._answers(model._golden["features"], types)
        return model

    def predict(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> FloatArray:
        """Expected R, shape (n,). `predict_proba` is P(R > 0)."""
        return self.predict_r(X, signal_types)

    def from_probability(self, p: FloatArray) -> FloatArray:
        """Expected R of signals whose P(win) is known to be `p`, shape (n,)."""
        return self._expected_r(p)

    def _answers(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        return self.predict_r(X, signal_types)
