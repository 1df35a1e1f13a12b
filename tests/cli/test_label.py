"""`refinery label` and a training that fills in: a real store, archive and directory of bars, and the real commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.support.events import START, signal
from tests.support.rebuild_installation import RebuildInstallation, csv_of, dump, rebuild_installation
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, ModelType
from trading_system.ml_refinement.storage import OutcomeRow
from trading_system.ml_refinement.storage.times import text_from_us, utc_text
from worker.cli.main import cli
from worker.retraining.job import retrain
from worker.settings.schema import load_settings

DAYS = 460
FIRST = 60
SETTINGS = {
    "ML__FEATURES__FEATURE_SET": "minimal",
    "ML__TRAINING__STEP_SIZE_DAYS": "63",
    "ML__TRAINING__HYPERPARAMETERS": '{"max_iter": 12}',
}


def refinery(*words: str) -> Result:
    found = CliRunner().invoke(cli, list(words))
    assert found.exit_code == 0, found.output
    return found


def labelled(*words: str) -> Any:
    return json.loads(refinery("label", "--json", *words).stdout)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RebuildInstallation]:
    """400 signals, one a day at the close, of which nobody has traded any yet."""
    rng = np.random.default_rng(11)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, DAYS)))
    opened = np.concatenate([[100.0], close[:-1]])
    spread = rng.uniform(1.001, 1.02, DAYS)
    times = [(START + timedelta(days=day)).isoformat() for day in range(DAYS)]
    columns = {
        "timestamp": times,
        "open": opened.tolist(),
        "high": (np.maximum(opened, close) * spread).tolist(),
        "low": (np.minimum(opened, close) / spread).tolist(),
        "close": close.tolist(),
        "volume": [1e5] * DAYS,
    }
    events = []
    for day in range(FIRST, DAYS):
        price, side = float(close[day]), 1 if rng.random() < 0.5 else -1
        fields = {
            "timestamp": times[day],
            "direction": "long" if side > 0 else "short",
            "entry_price": price,
            "stop_price": price * (1 - 0.04 * side),
            "target_price": price * (1 + 0.05 * side),
            "bars": None,
        }
        events.append(signal(day, **fields))
    for name, value in SETTINGS.items():
        monkeypatch.setenv(f"REFINERY_{name}", value)
    directory = tmp_path / "var"
    monkeypatch.setenv("REFINERY_STATE_DIR", str(directory))
    monkeypatch.setenv("REFINERY_MARKET_DATA_DIR", str(directory / "market"))
    with rebuild_installation(directory) as installation:
        (directory / "market" / "ACME.csv").write_text(csv_of(columns))
        installation.receive(events, FeatureConfig(feature_set=FeatureSet.MINIMAL))
        yield installation


def report(desk: RebuildInstallation, every: int, *, cost: float) -> int:
    """The trades of some signals close as the bars said, less a cost."""
    rows = [row for row in dump(desk.store, "virtual_outcomes") if row[1] is not None][::every]
    desk.store.outcomes.record([OutcomeRow(row[0], 0, row[3], row[1] - cost) for row in rows])
    return len(rows)


def train() -> Any:
    settings = load_settings()
    return retrain(settings, model_type=ModelType.SIGNAL_QUALITY.value, after=0, reason="manual")


def test_the_command_labels_once_and_says_what_stays_open(desk: RebuildInstallation) -> None:
    dry = labelled("--dry-run")
    assert dump(desk.store, "virtual_outcomes") == []
    done = labelled()
    assert {**done, "dry_run": True, "stored": {}} == dry
    assert done["labelled"] + done["open"] == DAYS - FIRST
    assert done["stored"] == done["ended"]
    assert (done["passed_over"], done["no_bars"], done["not_received"]) == (0, 0, {})
    assert done["hold_days"] == {"*": 10.0}
    again = refinery("label").stdout
    assert f"{done['labelled']} were settled before" in again
    assert f"{done['open']} are open" in again
    assert "too few to compare them" in again
    assert "REFINERY_ML__VIRTUAL_OUTCOMES is off" in again


def test_it_compares_with_what_trades_reported_and_says_where_they_disagree(desk: RebuildInstallation) -> None:
    labelled()
    count = report(desk, 2, cost=0.0)
    same = labelled("--force")["comparison"]  # the desk's own holdings make another rule
    assert (same["rows"], same["disagree"]) == (count, False)
    assert same["agreement"]["value"] > 0.9
    assert "do not say the same" not in same["words"]


def test_a_cost_that_the_walk_does_not_know_shows_as_a_difference(desk: RebuildInstallation) -> None:
    labelled()
    count = report(desk, 2, cost=0.2)
    found = labelled()["comparison"]
    assert (found["rows"], found["disagree"]) == (count, True)
    assert found["difference"]["value"] == pytest.approx(0.2, abs=0.06)
    assert "do not say the same" in refinery("label").stdout


def test_a_training_that_fills_in_labels_by_itself_and_tells_of_it(
    desk: RebuildInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled()
    reported = report(desk, 6, cost=0.0)
    with desk.store.atomic():
        desk.store._connection.run("DELETE FROM virtual_outcomes")
    held = train()
    assert (held["verdict"], held["model_id"]) == ("hold", None)
    assert f"{reported} of 100 samples" in held["reason"]
    assert dump(desk.store, "virtual_outcomes") == []

    monkeypatch.setenv("REFINERY_ML__VIRTUAL_OUTCOMES", "fill")
    after = desk.store.runs.last(ModelType.SIGNAL_QUALITY.value)
    assert after is not None
    settings = load_settings()
    done = retrain(settings, model_type=ModelType.SIGNAL_QUALITY.value, after=after.token, reason="manual")
    run = desk.store.runs.get(done["run_id"])
    assert run is not None
    stored = dump(desk.store, "virtual_outcomes")
    assert run.metrics["reported_samples"] == reported
    assert run.metrics["virtual_samples"] == sum(row[1] is not None for row in stored) - reported > 200
    assert run.metrics["rows"] < run.metrics["with_virtual_rows"]
    assert run.label_watermark == reported
    assert desk.store.counts().labels_total == reported
    told = refinery("models", "show", done["model_id"]).stdout
    assert f"{run.metrics['virtual_samples']} virtual" in told


def test_a_directory_that_is_gone_does_not_stop_a_training(
    desk: RebuildInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled()
    report(desk, 2, cost=0.0)
    monkeypatch.setenv("REFINERY_ML__VIRTUAL_OUTCOMES", "fill")
    settings = load_settings()
    (desk.directory / "market" / "ACME.csv").unlink()
    (desk.directory / "market").rmdir()
    done = retrain(settings, model_type=ModelType.SIGNAL_QUALITY.value, after=0, reason="manual")
    assert done["status"] == "completed"


def test_the_holding_is_that_of_the_desks_own_trades(desk: RebuildInstallation) -> None:
    held = [
        OutcomeRow(f"s-{day}", 0, utc_text(START + timedelta(days=day + 1 + day % 4)), 0.5) for day in range(60, 160)
    ]
    desk.store.outcomes.record(held)
    done = labelled()
    assert done["hold_days"] == {"*": 4.0, "breakout": 4.0}
    assert {row[4] for row in dump(desk.store, "virtual_outcomes")} == {"1:4d:0h"}


def test_a_time_that_is_none_is_one_line(desk: RebuildInstallation) -> None:
    found = CliRunner().invoke(cli, ["label", "--since", "yesterday"])
    assert found.exit_code == 2
    assert "--since" in found.output


def test_since_is_read_as_everywhere(desk: RebuildInstallation) -> None:
    at = START + timedelta(days=400)
    done = labelled("--since", f"{at:%Y-%m-%d}")
    assert done["labelled"] + done["open"] == DAYS - 400
    assert text_from_us(0) < utc_text(at)
