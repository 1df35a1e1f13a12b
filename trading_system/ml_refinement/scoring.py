"""From rows of features to scores: the models that serve, and the blend with the signal's own score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, TypeVar, cast

import numpy as np
from loguru import logger

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import (
    ArtefactModel,
    ModelRegistry,
    RegimeClassifier,
    ReturnPredictor,
    RiskPredictor,
    SignalQualityModel,
)
from trading_system.ml_refinement.models.errors import FeatureContractError, ModelFileRefused
from trading_system.ml_refinement.standing import NotProven, read_standing
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import ServingModel
from trading_system.ml_refinement.storage.times import Clock, us_from_text, utc_now, utc_text
from trading_system.ml_refinement.typing import FloatArray, StringArray

Status = Literal["scored", "cold_start", "stale"]
Band = Literal["high", "medium", "low"]
Model = TypeVar("Model", bound=ArtefactModel)

_ASKED: Mapping[ModelType, type[ArtefactModel]] = {
    ModelType.SIGNAL_QUALITY: SignalQualityModel,
    ModelType.RETURN_PREDICTOR: ReturnPredictor,
    ModelType.RISK_PREDICTOR: RiskPredictor,
    ModelType.REGIME_CLASSIFIER: RegimeClassifier,
}
_NO_MODEL, _EXPIRED = NotProven.NO_MODEL.value, NotProven.PROOF_EXPIRED.value
#: A model that was refused is tried again after this: its file may have been put right.
_TRY_AGAIN_US = 60_000_000


@dataclass(frozen=True, slots=True)
class ShadowScores:
    """What the newest candidate that never served says of the same n signals, shape (n,): logged, shown to nobody."""

    model_id: str
    quality: FloatArray
    predicted_r: FloatArray
    confidence: FloatArray


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a batch, in its order. NaN and None mean that there is no such score, never that it is 0.

    `quality` is the calibrated P(win), `predicted_r` the R expected, `risk_r` its 10th percentile, `confidence` 0-1
    how far to trust the score, `out_of_distribution` whether the signal is unlike those trained on (None without a
    model), `combined` 0-10 the signal's own score blended with ten times `quality`. Arrays have shape (n,), tuples n
    entries. `proven`: the gate has proven the model, and its proof has not expired; `not_proven` is why not, a value of
    `NotProven`. Each of `predicted_r`, `risk_r` and `regime` comes of a model of its own.
    """

    status: Status
    model_id: str | None
    proven: bool
    not_proven: str | None
    feature_version: str
    quality: FloatArray
    band: tuple[Band | None, ...]
    predicted_r: FloatArray
    risk_r: FloatArray
    regime: tuple[str | None, ...]
    confidence: FloatArray
    out_of_distribution: tuple[bool | None, ...]
    combined: FloatArray
    shadow: ShadowScores | None = None


@dataclass(frozen=True, slots=True)
class Champion:
    """What serves: the model, whether the gate has proven it, why not, and from when on it is stale."""

    model: SignalQualityModel
    proven: bool
    not_proven: str | None
    expires_us: int


@dataclass(frozen=True, slots=True)
class Serving:
    """The models that are asked; None where there is none. `same_opinion`: `returns` has the champion's P(win)."""

    champion: Champion | None = None
    returns: ReturnPredictor | None = None
    risk: RiskPredictor | None = None
    regime: RegimeClassifier | None = None
    shadow: SignalQualityModel | None = None
    same_opinion: bool = False


class Scorer:
    """Scores with whatever models the store says serve.

    Example:
        scorer.refresh()
        scores = scorer.score(batch.values, [6.5, None], ["breakout", "momentum"])
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
        self._serving = Serving()
        self._seen: tuple[ServingModel, ...] = ()
        self._refused: dict[str, int] = {}

    @property
    def model_id(self) -> str | None:
        """The model that scores now; None at cold start."""
        champion = self._serving.champion
        return champion.model.model_id if champion else None

    def refresh(self) -> bool:
        """Take up what the store says serves now; True where that changed something. One small query otherwise.

        A model whose file is refused, or which was fitted on other features than the pipeline's, is not taken up:
        what served in its place goes on serving, the log says why, once, and it is tried again after a minute.
        """
        wanted = self._db.models.serving(ModelType.SIGNAL_QUALITY.value) if self._config.enabled else ()
        if wanted == self._seen and not self._to_try_again():
            return False
        before = self._serving
        by_type = {row.model_type: row for row in wanted if not row.candidate}
        candidate = next((row for row in wanted if row.candidate), None)
        champion = self._champion(by_type.get(ModelType.SIGNAL_QUALITY))
        returns = self._taken_up(by_type.get(ModelType.RETURN_PREDICTOR), before.returns)
        self._serving = Serving(
            champion,
            returns,
            self._taken_up(by_type.get(ModelType.RISK_PREDICTOR), before.risk),
            self._taken_up(by_type.get(ModelType.REGIME_CLASSIFIER), before.regime),
            self._taken_up(candidate, before.shadow if candidate else None),
            champion is not None
            and returns is not None
            and returns.opinion_digest() == champion.model.opinion_digest(),
        )
        self._seen = wanted
        self._refused = {row.model_id: self._refused[row.model_id] for row in wanted if row.model_id in self._refused}
        return self._serving != before

    def score(
        self,
        values: FloatArray,
        own_scores: Sequence[float | None],
        signal_types: Sequence[str] | StringArray | None = None,
    ) -> Scores:
        """Score rows of features, shape (n, n_features), in the pipeline's order, of signals of these types (n,).

        Without types every signal is answered by what holds for all of them.

        `own_scores` are the signals' own, 0-10 or None. A proven model moves `combined` by `ml_score_weight`, and is
        all of it where there is no own score; any other model, a stale one, and none at all leave it as it was.

        Raises:
            FeatureContractError: the pipeline's features changed after the champion was taken up.
            ValueError: another number of rows than of own scores.
        """
        own = np.array([np.nan if score is None else score for score in own_scores], dtype=np.float64)
        if len(values) != len(own):
            raise ValueError(f"{len(values)} rows of features and {len(own)} own scores")
        serving, n = self._serving, len(values)
        nothing = np.full(n, np.nan)
        cold = Scores(
            status="cold_start",
            model_id=None,
            proven=False,
            not_proven=_NO_MODEL,
            feature_version=self._pipeline.feature_version,
            quality=nothing,
            band=(None,) * n,
            predicted_r=nothing,
            risk_r=nothing if serving.risk is None else serving.risk.predict(values),
            regime=(None,) * n if serving.regime is None else tuple(serving.regime.predict(values).tolist()),
            confidence=nothing,
            out_of_distribution=(None,) * n,
            combined=own,
            shadow=None if serving.shadow is None else _shadow(serving.shadow, values, signal_types),
        )
        return cold if serving.champion is None else self._scored(cold, serving.champion, values, signal_types)

    def _scored(
        self,
        scores: Scores,
        champion: Champion,
        values: FloatArray,
        signal_types: Sequence[str] | StringArray | None,
    ) -> Scores:
        """The scores with the champion's opinion."""
        serving, own = self._serving, scores.combined
        champion.model.check_features(self._pipeline.names, self._pipeline.feature_version)
        assessed = champion.model.assess(values, signal_types)
        quality, predicted_r = assessed.p, scores.predicted_r
        if serving.returns is not None:
            shared = serving.same_opinion
            returns = serving.returns
            predicted_r = returns.from_probability(quality) if shared else returns.predict(values, signal_types)
        stale = us_from_text(utc_text(self._clock())) > champion.expires_us
        proven = champion.proven and not stale
        return replace(
            scores,
            status="stale" if stale else "scored",
            model_id=champion.model.model_id,
            proven=proven,
            not_proven=_EXPIRED if champion.proven and stale else champion.not_proven,
            quality=quality,
            band=tuple(self._band(p) for p in quality.tolist()),
            predicted_r=predicted_r,
            confidence=assessed.confidence,
            out_of_distribution=tuple((assessed.novelty > 1.0).tolist()),
            combined=self._blend(own, quality) if proven else own,
        )

    def _champion(self, row: ServingModel | None) -> Champion | None:
        before = self._serving.champion
        model = self._taken_up(row, before.model if before else None)
        if row is None or model is None:
            return None
        if model.model_id != row.model_id:
            return before
        lifetime = timedelta(days=self._config.training.expiry_days)
        expires_us = us_from_text(model.created_at) + lifetime // timedelta(microseconds=1)
        champion = Champion(model, row.proven, self._why_not(row), expires_us)
        if champion != before:
            logger.info("model {} scores from now on ({})", model.model_id, "proven" if row.proven else "provisional")
        return champion

    def _why_not(self, row: ServingModel) -> str | None:
        """Why the model that serves is not proven, None where it is: looked up when what serves has changed."""
        if row.proven:
            return None
        standing = read_standing(self._db.models, row.model_type.value)
        known = standing.not_proven if standing is not None else None
        return (known or NotProven.NOT_RECORDED).value

    def _taken_up(self, row: ServingModel | None, before: Model | None) -> Model | None:
        """The model of a row, or the one `before` where it is refused."""
        if row is None or (before is not None and before.model_id == row.model_id):
            return None if row is None else before
        try:
            model = self._registry.load(row.model_id)
            if not isinstance(model, _ASKED[row.model_type]):
                raise ModelFileRefused(f"a {type(model).__name__} is not asked for scores")
            model.check_features(self._pipeline.names, self._pipeline.feature_version)
        except (ModelFileRefused, FeatureContractError) as error:
            if row.model_id not in self._refused:
                logger.error("model {} is not taken up: {}", row.model_id, error)
            self._refused[row.model_id] = self._now_us()
            return before
        self._refused.pop(row.model_id, None)
        return cast(Model, model)

    def _to_try_again(self) -> bool:
        return bool(self._refused) and self._now_us() - min(self._refused.values()) > _TRY_AGAIN_US

    def _now_us(self) -> int:
        return us_from_text(utc_text(self._clock()))

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


def _shadow(
    model: SignalQualityModel, values: FloatArray, signal_types: Sequence[str] | StringArray | None
) -> ShadowScores:
    assessed = model.assess(values, signal_types)
    return ShadowScores(model.model_id, assessed.p, assessed.predicted_r, assessed.confidence)


__all__ = ["FeatureContractError", "Scorer", "Scores", "ShadowScores"]
