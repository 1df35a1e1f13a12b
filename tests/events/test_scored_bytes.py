"""What the worker publishes is built without the model of `signal.scored`, and must be what that model would say."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import numpy as np
import orjson
import pytest

from trading_system.ml_refinement.scoring import Scores
from trading_system.ml_refinement.standing import NotProven
from worker.consumer.rows import served_rows
from worker.events.decoding import Limits, SignalCreated, SignalScored, decode
from worker.events.models import NotProvenCode

AT = "2026-01-01T00:00:00.000000Z"


def signal(signal_id: str) -> SignalCreated:
    said = {"symbol": "A", "asset_class": "equity", "signal_type": "breakout", "timestamp": AT}
    data = orjson.dumps({"signal_id": signal_id, **said})
    event = decode("signal.created", data, now=datetime(2026, 1, 1, tzinfo=UTC), limits=Limits()).event
    assert isinstance(event, SignalCreated)
    return event


SIGNALS = [signal("a"), signal("b")]
SCORES = Scores(
    status="scored",
    model_id="m",
    proven=True,
    not_proven=None,
    feature_version="v",
    quality=np.array([0.0, 1.0]),
    band=("low", "high"),
    predicted_r=np.array([-1.5, math.nan]),
    risk_r=np.array([math.nan, -1.0]),
    regime=("bull", None),
    confidence=np.array([0.25, math.nan]),
    out_of_distribution=(False, True),
    combined=np.array([10.0, math.nan]),
    shadow=None,
)


@pytest.mark.parametrize("status", ["scored", "stale", "cold_start"])
def test_published_bytes_are_those_of_the_contracts_model(status: str) -> None:
    rows = served_rows(SIGNALS, replace(SCORES, status=status), AT)
    for row in rows:
        assert SignalScored(**orjson.loads(row[3])).to_bytes() == row[3]
    assert [orjson.loads(row[3])["signal_id"] for row in rows] == ["a", "b"]
    assert orjson.loads(rows[1][3])["predicted_r"] is None


def test_the_codes_of_the_contract_are_those_of_the_ledger() -> None:
    assert get_args(NotProvenCode) == tuple(NotProven)
    for code in NotProven:
        row = served_rows(SIGNALS, replace(SCORES, proven=False, not_proven=code.value), AT)[0]
        assert SignalScored(**orjson.loads(row[3])).to_bytes() == row[3]
        assert orjson.loads(row[3])["not_proven"] == code


@pytest.mark.parametrize("column", ["quality", "predicted_r", "risk_r", "confidence", "combined"])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_score_is_never_published(column: str, value: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        served_rows(SIGNALS, replace(SCORES, **{column: np.array([0.5, value])}), AT)


@pytest.mark.parametrize(("column", "value"), [("quality", 1.01), ("confidence", -0.01), ("combined", 10.1)])
def test_a_score_beyond_its_bounds_is_never_published(column: str, value: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        served_rows(SIGNALS, replace(SCORES, **{column: np.array([value, 0.5])}), AT)


def test_every_number_is_written_as_the_model_writes_it() -> None:
    rng = np.random.default_rng(3)
    odd = [0.0, -0.0, 5e-324, 1e-7, 1e22, 1.7976931348623157e308, 0.1 + 0.2, math.nan]
    wide = np.array([*odd, *rng.normal(0, 1, 40), *(-np.logspace(-300, 300, 40))])
    count = len(wide)
    share = rng.random(count)
    share[:3] = 0.0, 1.0, math.nan
    many = replace(
        SCORES,
        quality=share,
        band=(None, "low", "medium", "high") * (count // 4),
        predicted_r=wide,
        risk_r=wide[::-1],  # not one row of memory
        regime=("bear",) * count,
        confidence=share[::-1],
        out_of_distribution=(None, True) * (count // 2),
        combined=10 * share,
    )
    rows = served_rows([signal(f"s-{at}") for at in range(count)], many, AT)
    for at, row in enumerate(rows):
        said = orjson.loads(row[3])
        assert SignalScored(**said).to_bytes() == row[3]
        assert said["predicted_r"] == (None if math.isnan(wide[at]) else wide[at])
        assert said["out_of_distribution"] is (None, True)[at % 2]
