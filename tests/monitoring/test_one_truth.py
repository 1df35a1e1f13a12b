"""The same store, every place that shows a figure about models and outcomes: the same figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import template_rendered

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.evaluation.evaluate import evaluate
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow, PredictionRow, VectorRow
from trading_system.ml_refinement.storage.times import text_from_us, us_from_text, utc_now, utc_text
from trading_system.ml_refinement.training.champion_record import end_proof_if_failing
from worker.console.application import create_app
from worker.installation import open_store
from worker.observability.state_collector import StateCollector
from worker.observability.status import read_status
from worker.retraining.monitoring import monitor
from worker.settings.schema import Settings, load_settings

DAY_US = 86_400_000_000
START_US = 1_735_689_600_000_000
DAYS, PER_DAY = 315, 4
#: Served by the first of two models from here on, and by the second in the last fifty days.
FIRST_SERVED, SECOND_SERVED = 200, 265
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def settings(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(state_dir))
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[FeatureDatabase]:
    with open_store(settings) as store:
        fill(store, settings)
        yield store


def fill(store: FeatureDatabase, settings: Settings) -> None:
    """Noise, half of its features moved lately, served by two models that are worse than their base rates."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(1)
    times = START_US + np.arange(DAYS * PER_DAY, dtype=np.int64) * DAY_US // PER_DAY
    X = rng.standard_normal((len(times), len(pipeline.names)))
    X[times > times[-1] - 63 * DAY_US, : len(pipeline.names) // 2] += 3.0
    r = rng.normal(0.1, 1.0, len(times))
    version, ids = pipeline.feature_version, [f"s-{n}" for n in range(len(times))]
    rows = [
        VectorRow(name, text_from_us(int(at)), "SYM", "equity", "breakout", None, version, True, b"0" * 16, name)
        for name, at in zip(ids, times, strict=True)
    ]
    outcomes = [
        OutcomeRow(name, 0, text_from_us(int(at) + DAY_US), float(each), None, None, name)
        for name, at, each in zip(ids, times, r, strict=True)
    ]
    with store.atomic():
        store.vectors.insert_new(rows, pipeline.names, X)
        store.outcomes.record(outcomes)
    registry = ModelRegistry(model_dir=str(settings.models_dir), db=store)
    models = [serving(registry, pipeline, wins, seed) for seed, wins in enumerate((0.3, 0.6))]
    p = np.clip(0.5 - 0.2 * r + rng.normal(0.0, 0.2, len(r)), 0.05, 0.95)
    store.scores.log_predictions(
        [
            PredictionRow(ids[n], models[n >= SECOND_SERVED * PER_DAY], utc_text(utc_now()), float(p[n]))
            for n in range(FIRST_SERVED * PER_DAY, len(ids))
        ]
    )


def serving(registry: ModelRegistry, pipeline: FeaturePipeline, wins: float, seed: int) -> str:
    """A proven model that was trained where the share `wins` won."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((200, len(pipeline.names)))
    model = SignalQualityModel(max_iter=12)
    model.fit(X, np.where(rng.random(200) < wins, 1.4, -1.0), feature_names=pipeline.names)
    model.feature_version = pipeline.feature_version
    model.set_training_period(text_from_us(START_US), text_from_us(START_US + FIRST_SERVED * DAY_US - 1))
    registry.enter(model, recipe="ensemble")
    registry.promote(model.model_id, proven=True)
    return model.model_id


def monitored(settings: Settings, store: FeatureDatabase) -> dict[str, float]:
    """By the report that monitoring stores."""
    found = monitor(settings, store, cause="schedule").figures
    names = {"excess": "served_excess", "auc": "served_auc", "calibration": "served_calibration_error"}
    names |= {"rows": "served_rows", "lift": "served_lift", "features": "features", "drifted": "features_drifted"}
    return {name: found[key] for name, key in names.items()}


def scraped(settings: Settings) -> dict[str, float]:
    """By the gauges of Prometheus."""
    collector = StateCollector(settings, NOBODY)
    gauges = {sample.name: sample.value for family in collector.collect() for sample in family.samples}
    collector.close()
    names = {"auc": "live_auc", "calibration": "live_calibration_error", "rows": "live_rows", "lift": "live_lift"}
    names |= {"features": "drift_features", "drifted": "drift_features_drifted"}
    excess = gauges["refinery_live_log_loss"] - gauges["refinery_live_base_rate_log_loss"]
    return {name: gauges[f"refinery_{key}"] for name, key in names.items()} | {"excess": excess}


def shown(settings: Settings, path: str) -> dict[str, float]:
    """By a page of the console."""
    app = create_app(settings, NOBODY)
    contexts: list[Mapping[str, Any]] = []

    def keep(sender: object, context: Mapping[str, Any], **rest: object) -> None:
        contexts.append(context)

    with template_rendered.connected_to(keep, app):
        assert app.test_client().get(path).status_code == 200
    context = next(each for each in contexts if "figures" in each)
    figures = context["figures"]
    drift = context.get("drift")
    excess = figures.log_loss - figures.base_rate_log_loss
    found = {"rows": figures.rows, "excess": excess, "auc": figures.auc, "lift": figures.lift}
    found |= {"calibration": figures.calibration_error}
    if drift is not None:
        found |= {"features": len(drift), "drifted": sum(each.drifted for each in drift)}
    return found


def reported(settings: Settings, store: FeatureDatabase) -> dict[str, float]:
    """By `refinery evaluate`."""
    config, pipeline = settings.to_ml_config(), FeaturePipeline(settings.to_ml_config().features)
    config = replace(config, training=replace(config.training, step_size_days=126, hyperparameters={"max_iter": 12}))
    names, version = pipeline.names, pipeline.feature_version
    found = evaluate(store, config, names=names, feature_version=version, clock=utc_now)
    lines = {line.name: line.found.value for line in found.served_figures}
    assert found.served is not None
    figures = {"rows": len(found.served), "excess": -lines["log loss gained"], "auc": lines["AUC"]}
    return figures | {"calibration": lines["calibration error"], "lift": lines["lift, R"]}


def judged(settings: Settings, store: FeatureDatabase) -> dict[str, float]:
    """By the gate, which demotes the champion on these very figures."""
    active = store.models.active(ModelType.SIGNAL_QUALITY)
    assert active is not None
    now_us = us_from_text(utc_text(utc_now()))
    end_proof_if_failing(store, active, training=settings.ml.training, now_us=now_us)
    (entry,) = [entry for entry in store.models.promotions() if entry.action == "demote"]
    found = entry.figures
    figures = {"rows": found["rows"], "excess": -found["log_loss_gain"], "auc": found["auc"]}
    return figures | {"calibration": found["calibration_error"], "lift": found["lift"]}


@pytest.mark.slow
def test_every_place_tells_the_same_figures_of_the_same_store(settings: Settings, store: FeatureDatabase) -> None:
    expected = monitored(settings, store)
    assert expected["rows"] == (DAYS - FIRST_SERVED) * PER_DAY
    assert expected["features"] == len(FeaturePipeline(settings.to_ml_config().features).names)
    assert expected["drifted"] >= expected["features"] // 2
    places = {
        "metrics": scraped(settings),
        "monitoring page": shown(settings, "/monitoring"),
        "overview": shown(settings, "/"),
        "evaluation": reported(settings, store),
        "gate": judged(settings, store),
    }
    for place, found in places.items():
        assert found == pytest.approx({name: expected[name] for name in found}), place
    status = read_status(settings, store, None).monitoring
    assert status is not None
    assert (status.features, status.features_drifted) == (expected["features"], expected["drifted"])
    assert status.served_excess == pytest.approx(expected["excess"])
