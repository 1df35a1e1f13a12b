"""Scores: what is served with no model, an unproven one, a proven one and a stale one, and when scoring refuses."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import NOW, LearningInstallation, fitted, learning_installation
from tests.support.models_in_files import only_in_files
from trading_system.ml_refinement.config import FeatureConfig, MLConfig
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import RegimeClassifier, ReturnPredictor, RiskPredictor, SignalQualityModel
from trading_system.ml_refinement.models.errors import FeatureContractError
from trading_system.ml_refinement.scoring import Scorer
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN

PIPELINE = FeaturePipeline(FeatureConfig())
OWN = [6.0, None, 2.5]


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def installation(tmp_path: Path) -> LearningInstallation:
    return learning_installation(tmp_path / "installation")


@pytest.fixture
def watch() -> Watch:
    return Watch()


def scorer(installation: LearningInstallation, watch: Watch, config: MLConfig | None = None) -> Scorer:
    return Scorer(installation.db, installation.registry, config or MLConfig(), PIPELINE, watch)


def serving(installation: LearningInstallation, *, proven: bool, seed: int = 0) -> SignalQualityModel:
    model = candidate(installation, seed=seed)
    installation.registry.promote(model.model_id, proven=proven)
    return model


def candidate(installation: LearningInstallation, *, seed: int) -> SignalQualityModel:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((300, len(PIPELINE.names)))
    model = SignalQualityModel(max_iter=12, clock=lambda: NOW)
    r = np.where(rng.random(300) < 1.0 / (1.0 + np.exp(-2.0 * X[:, 0])), 1.4, -1.0)
    model.fit(X, r, feature_names=PIPELINE.names)
    model.feature_version = PIPELINE.feature_version
    installation.registry.register(model)
    return model


def rows(n: int = 3) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((n, len(PIPELINE.names)))


def test_without_a_model_nothing_is_made_up(installation: LearningInstallation, watch: Watch) -> None:
    scores = scorer(installation, watch).score(rows(), OWN)
    assert (scores.status, scores.model_id, scores.proven) == ("cold_start", None, False)
    assert scores.not_proven == "no_model"
    for figure in (scores.quality, scores.predicted_r, scores.confidence, scores.risk_r):
        assert np.isnan(figure).all()
    assert scores.band == scores.regime == scores.out_of_distribution == (None, None, None)
    np.testing.assert_array_equal(scores.combined, [6.0, np.nan, 2.5])


def test_a_provisional_model_is_published_and_moves_nothing(installation: LearningInstallation, watch: Watch) -> None:
    model = serving(installation, proven=False)
    scoring = scorer(installation, watch)
    assert scoring.refresh()
    scores = scoring.score(rows(), OWN)
    assert (scores.status, scores.model_id, scores.proven) == ("scored", model.model_id, False)
    assert scores.not_proven == "not_recorded"
    np.testing.assert_array_equal(scores.quality, model.predict_proba(rows()))
    np.testing.assert_array_equal(scores.combined, [6.0, np.nan, 2.5])


def test_a_proven_model_is_blended_in_by_its_weight(installation: LearningInstallation, watch: Watch) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch)
    scoring.refresh()
    scores = scoring.score(rows(), OWN)
    q = scores.quality
    np.testing.assert_allclose(scores.combined, [0.7 * 6.0 + 3.0 * q[0], 10.0 * q[1], 0.7 * 2.5 + 3.0 * q[2]])
    assert ((scores.combined >= 0) & (scores.combined <= 10)).all()
    unused = Scorer(installation.db, installation.registry, MLConfig(use_ml_scores=False), PIPELINE, watch)
    unused.refresh()
    np.testing.assert_array_equal(unused.score(rows(), OWN).combined, [6.0, np.nan, 2.5])


def test_bands_follow_the_configured_thresholds(installation: LearningInstallation, watch: Watch) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch, MLConfig(quality_threshold_high=0.6, quality_threshold_low=0.4))
    scoring.refresh()
    scores = scoring.score(rows(100), [None] * 100)
    assert set(scores.band) == {"high", "medium", "low"}
    for band, q in zip(scores.band, scores.quality, strict=True):
        assert band == ("high" if q >= 0.6 else "low" if q <= 0.4 else "medium")


def test_a_champion_past_its_expiry_says_so_and_stops_moving_scores(
    installation: LearningInstallation, watch: Watch
) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch)
    scoring.refresh()
    watch.now = NOW + timedelta(days=125)
    before = scoring.score(rows(), OWN)
    assert (before.status, before.proven, before.not_proven) == ("scored", True, None)
    watch.now = NOW + timedelta(days=127)
    scores = scoring.score(rows(), OWN)
    assert (scores.status, scores.proven, scores.not_proven) == ("stale", False, "proof_expired")
    assert np.isfinite(scores.quality).all()
    np.testing.assert_array_equal(scores.combined, [6.0, np.nan, 2.5])


def test_scores_say_why_a_proof_ended_also_those_of_the_models_after_it(
    installation: LearningInstallation, watch: Watch
) -> None:
    scoring = scorer(installation, watch)
    first = serving(installation, proven=True)
    scoring.refresh()
    assert scoring.score(rows(), OWN).not_proven is None
    models = installation.db.models
    models.set_proven(first.model_id, False, reason="it was worse", figures={NOT_PROVEN: "harm"}, actor="gate")
    scoring.refresh()
    assert scoring.score(rows(), OWN).not_proven == "harm"
    serving(installation, proven=False, seed=1)
    scoring.refresh()
    assert scoring.score(rows(), OWN).not_proven == "harm"
    serving(installation, proven=True, seed=2)
    scoring.refresh()
    assert scoring.score(rows(), OWN).not_proven is None


def test_a_promotion_elsewhere_is_taken_up_once(installation: LearningInstallation, watch: Watch) -> None:
    scoring = scorer(installation, watch)
    assert scoring.refresh() is False
    first = serving(installation, proven=False)
    assert scoring.refresh() is True
    assert scoring.refresh() is False
    second = serving(installation, proven=False, seed=1)
    assert scoring.model_id == first.model_id
    assert scoring.refresh() is True
    assert scoring.model_id == second.model_id
    installation.db.models.set_proven(second.model_id, True, reason="skill")
    assert scoring.refresh() is True
    assert scoring.score(rows(), OWN).proven
    installation.db.models.retire(second.model_id, reason="out of order")
    assert scoring.refresh() is True
    assert scoring.score(rows(), OWN).status == "cold_start"


def test_a_damaged_file_is_not_taken_up_and_the_model_before_goes_on(
    installation: LearningInstallation, watch: Watch
) -> None:
    first, second = serving(installation, proven=True), serving(installation, proven=True, seed=1)
    installation.registry.activate(first.model_id)
    scoring = scorer(installation, watch)
    scoring.refresh()
    (installation.registry.model_dir / f"{second.model_id}.skops").write_bytes(b"not a model")
    only_in_files(installation.db)
    installation.db.models.activate(second.model_id, reason="by hand", proven=True)
    assert scoring.refresh() is False
    assert scoring.model_id == first.model_id


def test_a_model_of_other_features_is_refused_once_and_loudly_and_scores_nothing(
    installation: LearningInstallation, watch: Watch, errors_logged: list[str]
) -> None:
    model = fitted()
    installation.registry.register(model)
    installation.registry.activate(model.model_id)
    scoring = scorer(installation, watch)
    assert [scoring.refresh() for _ in range(3)] == [False, False, False]
    assert scoring.score(rows(), OWN).status == "cold_start"
    [error] = errors_logged
    assert model.model_id in error
    assert "bench-1" in error
    assert PIPELINE.feature_version in error
    fit = serving(installation, proven=True)
    assert scoring.refresh() is True
    assert scoring.score(rows(), OWN).model_id == fit.model_id
    installation.db.models.activate(model.model_id, reason="by hand", proven=True)
    assert scoring.refresh() is False
    assert scoring.model_id == fit.model_id


def test_features_that_changed_under_a_model_refuse_to_score(installation: LearningInstallation, watch: Watch) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch)
    scoring.refresh()
    scoring._pipeline = FeaturePipeline(FeatureConfig(volatility_window=15))
    with pytest.raises(FeatureContractError):
        scoring.score(rows(), OWN)


def test_a_file_that_was_put_right_is_taken_up_after_a_minute(
    installation: LearningInstallation, watch: Watch, errors_logged: list[str]
) -> None:
    model = serving(installation, proven=True)
    path = installation.registry.model_dir / f"{model.model_id}.skops"
    data = path.read_bytes()
    path.write_bytes(b"not a model")
    only_in_files(installation.db)
    scoring = scorer(installation, watch)
    for _ in range(3):
        watch.now += timedelta(minutes=2)
        assert scoring.refresh() is False
    assert len(errors_logged) == 1
    path.write_bytes(data)
    assert scoring.refresh() is False
    watch.now += timedelta(minutes=2)
    assert scoring.refresh() is True
    assert scoring.model_id == model.model_id


def beside(
    installation: LearningInstallation, quality: SignalQualityModel
) -> tuple[ReturnPredictor, RiskPredictor, RegimeClassifier]:
    """Models of return, risk and regime that serve."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((300, len(PIPELINE.names)))
    models = ReturnPredictor.beside(quality), RiskPredictor(max_iter=12), RegimeClassifier()
    for model in models:
        if not model.is_fitted:
            model.fit(X, rng.standard_normal(300) * np.exp(X[:, 0]), feature_names=PIPELINE.names)
            model.feature_version = PIPELINE.feature_version
        installation.registry.register(model)
        installation.registry.activate(model.model_id)
    return models


def test_every_model_fills_its_own_field_and_a_missing_one_leaves_it_empty(
    installation: LearningInstallation, watch: Watch
) -> None:
    quality = serving(installation, proven=True)
    scoring = scorer(installation, watch)
    scoring.refresh()
    alone = scoring.score(rows(), OWN)
    assert np.isnan(alone.predicted_r).all()
    assert np.isnan(alone.risk_r).all()
    assert alone.regime == (None, None, None)
    returns, risk, regime = beside(installation, quality)
    assert scoring.refresh() is True
    scores = scoring.score(rows(), OWN)
    np.testing.assert_array_equal(scores.predicted_r, returns.predict(rows()))
    np.testing.assert_array_equal(scores.risk_r, risk.predict(rows()))
    assert scores.regime == tuple(regime.predict(rows()))
    np.testing.assert_array_equal(scores.quality, alone.quality)
    serving(installation, proven=True, seed=1)
    scoring.refresh()
    other = scoring.score(rows(), OWN)
    assert (other.quality != scores.quality).all()
    np.testing.assert_array_equal(other.predicted_r, returns.predict(rows()))
    installation.db.models.retire(risk.model_id, reason="out of order")
    scoring.refresh()
    assert np.isnan(scoring.score(rows(), OWN).risk_r).all()


def test_the_newest_candidate_that_never_served_is_asked_in_silence(
    installation: LearningInstallation, watch: Watch
) -> None:
    champion, scoring = serving(installation, proven=True), scorer(installation, watch)
    scoring.refresh()
    before = scoring.score(rows(), OWN)
    assert before.shadow is None
    older, newer = candidate(installation, seed=1), candidate(installation, seed=2)
    assert scoring.refresh() is True
    scores = scoring.score(rows(), OWN)
    assert (scores.model_id, scores.shadow.model_id) == (champion.model_id, newer.model_id)
    np.testing.assert_array_equal(scores.shadow.quality, newer.predict_proba(rows()))
    np.testing.assert_array_equal(scores.shadow.predicted_r, newer.predict_r(rows()))
    for name in ("quality", "combined", "confidence", "predicted_r"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(before, name))
    installation.registry.activate(newer.model_id)
    scoring.refresh()
    after = scoring.score(rows(), OWN)
    assert (after.model_id, after.shadow) == (newer.model_id, None)
    installation.registry.activate(older.model_id)
    scoring.refresh()
    assert scoring.score(rows(), OWN).shadow is None


def test_a_candidate_is_asked_before_anything_serves(installation: LearningInstallation, watch: Watch) -> None:
    model, scoring = candidate(installation, seed=1), scorer(installation, watch)
    scoring.refresh()
    scores = scoring.score(rows(), OWN)
    assert (scores.status, scores.model_id, scores.shadow.model_id) == ("cold_start", None, model.model_id)


def test_learning_switched_off_scores_nothing(installation: LearningInstallation, watch: Watch) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch, MLConfig(enabled=False))
    assert scoring.refresh() is False
    assert scoring.score(rows(), OWN).status == "cold_start"


def test_a_row_alone_scores_as_in_its_batch(installation: LearningInstallation, watch: Watch) -> None:
    beside(installation, serving(installation, proven=True))
    scoring = scorer(installation, watch)
    scoring.refresh()
    batch = scoring.score(rows(40), [5.0] * 40)
    for i in range(40):
        alone = scoring.score(rows(40)[i : i + 1], [5.0])
        for name in ("quality", "predicted_r", "risk_r", "confidence", "combined"):
            np.testing.assert_allclose(getattr(alone, name), getattr(batch, name)[i : i + 1], rtol=1e-12)


def test_an_empty_batch_has_no_scores(installation: LearningInstallation, watch: Watch) -> None:
    serving(installation, proven=True)
    scoring = scorer(installation, watch)
    scoring.refresh()
    assert len(scoring.score(rows(0), []).quality) == 0
    with pytest.raises(ValueError, match="own scores"):
        scoring.score(rows(2), [1.0])
