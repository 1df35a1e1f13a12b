"""From rows of features to scores: the models that serve, and the blend with the signal's own score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models.errors import FeatureContractError, ModelFileRefused
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import Clock, us_from_text, utc_now, utc_text

FloatArray = NDArray[np.float64]
Status = Literal["scored", "cold_start", "stale"]
Band = Literal["high", "medium", "low"]

#: A champion older than this part of its training window has expired: its scores are served as `stale`.
_EXPIRY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a batch, in its order. NaN and None mean that there is no such score, never that it is 0.

    `quality` is the calibrated P(win), `predicted_r` the R expected, `risk_r` its 10th percentile, `confidence` 0-1
    how far to trust the score, `out_of_distribution` whether the signal is unlike those trained on (None without a
    model), `combined` 0-10 the signal's own score blended with ten times `quality`. All have n entries.
    """

    status: Status
    model_id: str | None
    proven: bool
    feature_version: str
    quality: FloatArray
    band: tuple[Band | None, ...]
    predicted_r: FloatArray
    risk_r: FloatArray
    regime: tuple[str | None, ...]
    confidence: FloatArray
    out_of_distribution: tuple[bool | None, ...]
    combined: FloatArray


@dataclass(frozen=True, slots=True)
class Champion:
    """What serves: the model, whether the gate has proven it, and from when on it is stale."""

    model: SignalQualityModel
    proven: bool
    expires_us: int


class Scorer:
    """Scores with whatever model the store says serves.

    Example:
        scorer.refresh()
        scores = scorer.score(batch.values, [6.5, None])
    """

    def __init__(
        self,
        db: FeatureDatabase,
        registry: ModelRegistry,
        config: MLConfig,
        pipeline: FeaturePipeline,
        clock: Clock = utc_now,
    ) -> None:
        self._db = db
        self._registry = registry
        self._config = config
        self._pipeline = pipeline
        self._clock = clock
        self._champion: Champion | None = None
        self._refused: str | None = None
        self._unfit: str | None = None  # fitted on other features: nothing but another model mends that

    @property
    def model_id(self) -> str | None:
        """The model that scores now; None at cold start."""
        return self._champion.model.model_id if self._champion else None

    def refresh(self) -> bool:
        """Take up what the store says serves now; True where that changed something. One small query otherwise.

        A model whose file is refused, or that was fitted on other features than the pipeline's, is not taken up: what
        served goes on serving (at the start nothing: `cold_start`), and the log says why, once.
        """
        row = self._db.models.active(ModelType.SIGNAL_QUALITY.value) if self._config.enabled else None
        before = self._champion
        if row is None:
            self._champion = None
            return before is not None
        if row.model_id == self._unfit:
            return False
        if before is not None and (before.model.model_id, before.proven) == (row.model_id, row.proven):
            return False
        try:
            model = self._registry.get_active(ModelType.SIGNAL_QUALITY)
        except ModelFileRefused as error:
            if self._refused != row.model_id:
                logger.error("model {} is not taken up: {}", row.model_id, error)
            self._refused = row.model_id
            return False
        if not isinstance(model, SignalQualityModel) or model.model_id != row.model_id:
            return False  # another one was activated in between; the next call sees it
        try:
            model.check_features(self._pipeline.names, self._pipeline.feature_version)
        except FeatureContractError as error:
            logger.error("model {} is not taken up: {}; train on the features of now", row.model_id, error)
            self._unfit = row.model_id
            return False
        lifetime = timedelta(days=self._config.training.train_window_days * _EXPIRY_SHARE)
        self._champion = Champion(
            model, row.proven, us_from_text(model.created_at) + lifetime // timedelta(microseconds=1)
        )
        logger.info("model {} scores from now on ({})", model.model_id, "proven" if row.proven else "provisional")
        return True

    def score(self, values: FloatArray, own_scores: Sequence[float | None]) -> Scores:
        """Score rows of features, shape (n, n_features), in the pipeline's order.

        `own_scores` are the signals' own, 0-10 or None. A proven model moves `combined` by `ml_score_weight`, and is
        all of it where there is no own score; any other model, a stale one, and none at all leave it as it was.

        Raises:
            FeatureContractError: the pipeline's features are not those the model was fitted on.
        """
        own = np.array([np.nan if score is None else score for score in own_scores], dtype=np.float64)
        if len(values) != len(own):
            raise ValueError(f"{len(values)} rows of features and {len(own)} own scores")
        champion = self._champion
        if champion is None:
            return self._cold(own)
        model = champion.model
        model.check_features(self._pipeline.names, self._pipeline.feature_version)
        assessed = model.assess(values)
        quality = assessed.p
        stale = us_from_text(utc_text(self._clock())) > champion.expires_us
        return Scores(
            status="stale" if stale else "scored",
            model_id=model.model_id,
            proven=champion.proven,
            feature_version=self._pipeline.feature_version,
            quality=quality,
            band=tuple(self._band(p) for p in quality.tolist()),
            predicted_r=assessed.predicted_r,
            risk_r=np.full(len(values), np.nan),
            regime=(None,) * len(values),
            confidence=assessed.confidence,
            out_of_distribution=tuple((assessed.novelty > 1.0).tolist()),
            combined=self._blend(own, quality) if champion.proven and not stale else own,
        )

    def _cold(self, own: FloatArray) -> Scores:
        n = len(own)
        nothing = np.full(n, np.nan)
        return Scores(
            status="cold_start",
            model_id=None,
            proven=False,
            feature_version=self._pipeline.feature_version,
            quality=nothing,
            band=(None,) * n,
            predicted_r=nothing,
            risk_r=nothing,
            regime=(None,) * n,
            confidence=nothing,
            out_of_distribution=(None,) * n,
            combined=own,
        )

    def _band(self, p: float) -> Band:
        if p >= self._config.quality_threshold_high:
            return "high"
        return "low" if p <= self._config.quality_threshold_low else "medium"

    def _blend(self, own: FloatArray, quality: FloatArray) -> FloatArray:
        if not self._config.use_ml_scores:
            return own
        weight = self._config.ml_score_weight
        blended = (1.0 - weight) * own + weight * 10.0 * quality
        return np.where(np.isnan(own), 10.0 * quality, blended)


__all__ = ["FeatureContractError", "Scorer", "Scores"]
