"""What the models say of a live signal: published, logged, and the shadow's word kept to itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from tests.support.desk import Desk, desk, scored, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.models import (
    BaseModel,
    ModelRegistry,
    RegimeClassifier,
    ReturnPredictor,
    RiskPredictor,
    SignalQualityModel,
)
from worker.installation import feature_pipeline


def registered(worker: Desk, model: BaseModel, *, seed: int = 0) -> BaseModel:
    pipeline = feature_pipeline(worker.settings)
    if not model.is_fitted:
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((200, len(pipeline.names)))
        model.fit(X, X[:, 0] + rng.standard_normal(200), feature_names=pipeline.names)
        model.feature_version = pipeline.feature_version
    ModelRegistry(worker.settings.models_dir, worker.store).register(model)
    return model


def test_a_signal_is_answered_by_four_models_and_the_shadow_is_only_logged(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        champion = registered(worker, SignalQualityModel(max_iter=8))
        assert isinstance(champion, SignalQualityModel)
        beside = [ReturnPredictor.beside(champion), RiskPredictor(max_iter=8), RegimeClassifier()]
        for model in (champion, *(registered(worker, one) for one in beside)):
            worker.store.models.activate(model.model_id, reason="test")
        shadow = registered(worker, SignalQualityModel(max_iter=8), seed=1)
        for _ in range(2):
            send(valkey, SIGNALS, signal(1))
            worker.drain()
        send(valkey, TRADES, outcome(1, 2.5))
        worker.drain()
        answer, again = scored(valkey)
        logged = worker.store.scores.of_signal("s-1")

    assert answer == again
    assert (answer["status"], answer["model_id"]) == ("scored", champion.model_id)
    assert None not in (answer["predicted_r"], answer["risk_r"], answer["regime"], answer["confidence"])
    roles = {line.prediction.model_id: line.prediction.role for line in logged}
    assert roles == {champion.model_id: "champion", shadow.model_id: "shadow"}
    by_role = {line.prediction.role: line for line in logged}
    assert by_role["champion"].prediction.predicted_r == answer["predicted_r"]
    assert by_role["champion"].prediction.quality_score == answer["quality_score"]
    for line in logged:
        assert line.actual_r == 2.5
        assert line.prediction_error == pytest.approx(2.5 - (line.prediction.predicted_r or 0.0))
    assert by_role["shadow"].prediction.quality_score != answer["quality_score"]
