"""`explain`: which features moved a score, and how such signals ended before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from trading_system.ml_refinement.config import FeatureVector
from trading_system.ml_refinement.evaluation.explain import Explanation, NotExplained, explain
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage import FeatureDatabase, PredictionRow
from trading_system.ml_refinement.storage.times import utc_text
from trading_system.ml_refinement.typing import FloatArray

START = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = ["driver", "noise", "other"]
ROWS = 400


def day(number: float) -> str:
    return utc_text(START + timedelta(days=number))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FeatureDatabase, ModelRegistry, FloatArray]]:
    """A store of a signal a day, each scored and closed half a day later; its models; the vectors, shape (rows, 3)."""
    place = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(5)
    X = rng.normal(size=(ROWS, 3))
    r = np.where(rng.random(ROWS) < 1 / (1 + np.exp(-2 * X[:, 0])), 1.5, -1.0)
    with FeatureDatabase(place / "features.db") as db:
        registry = ModelRegistry(model_dir=str(place / "models"), db=db)
        model = SignalQualityModel()
        model.fit(X, r, feature_names=NAMES)
        model.set_training_period(day(0), day(20))  # what is served after them is the record
        registry.register(model)
        p = model.predict_proba(X)
        for row in range(ROWS):
            name = f"s-{row}"
            features = dict(zip(NAMES, X[row].tolist(), strict=True))
            db.store_feature_vector(FeatureVector(name, day(row), features))
            logged = PredictionRow(name, model.model_id, day(row), float(p[row]))
            db.scores.log_predictions([logged])
            db.update_target(name, float(r[row]), closed_at=day(row + 0.5))
        yield db, registry, X


@pytest.fixture(scope="module")
def explained(desk: tuple[FeatureDatabase, ModelRegistry, FloatArray]) -> Explanation:
    db, registry, X = desk
    return explain(db, registry, f"s-{int(np.argmax(X[:, 0]))}")


def test_the_feature_that_drives_the_outcome_is_what_moved_the_score(explained: Explanation) -> None:
    assert explained.reproduced
    assert explained.moves[0].name == "driver"
    assert explained.moves[0].moved > 0.1
    assert explained.moves[0].columns > 0.3
    assert explained.type_adds == 0.0
    assert explained.moves[0].value > explained.moves[0].typical
    assert all(abs(move.moved) < explained.moves[0].moved / 2 for move in explained.moves[1:])


def test_only_trades_that_had_closed_before_the_signal_count_as_earlier(explained: Explanation) -> None:
    known = int((datetime.fromisoformat(explained.timestamp) - START).days)
    assert explained.earlier.count == min(50, known)
    assert explained.earlier.win_rate is not None
    assert explained.earlier.win_rate > 0.6
    assert explained.actual_r in (1.5, -1.0)


def test_an_old_signal_has_the_trades_before_it_as_earlier_also_where_few_are_read(
    desk: tuple[FeatureDatabase, ModelRegistry, FloatArray],
) -> None:
    db, registry, _ = desk
    assert explain(db, registry, "s-60", most_rows=20).earlier.count == 20
    assert explain(db, registry, "s-60").earlier.count == 39, "those of days 21 to 59; the model knew the others"


def test_a_signal_that_is_not_there_or_was_not_scored_is_said_so(tmp_path: Path) -> None:
    with FeatureDatabase(tmp_path / "features.db") as db:
        registry = ModelRegistry(model_dir=str(tmp_path / "models"), db=db)
        with pytest.raises(NotExplained, match="no signal"):
            explain(db, registry, "s-1")
        db.store_feature_vector(FeatureVector("s-1", day(0), {"a": 1.0}))
        with pytest.raises(NotExplained, match="cold start"):
            explain(db, registry, "s-1")
