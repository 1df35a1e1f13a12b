"""A rebuild that is killed hard leaves whole vectors, and the next one finishes."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
from pathlib import Path

from tests.support.rebuild_installation import event, features, rebuild_installation
from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features import FeaturePipeline
from trading_system.ml_refinement.storage import FeatureDatabase
from worker import app
from worker.settings.schema import load_settings

COUNT = 120
KILLED_BEFORE_A_COMMIT = """
from tests.faults.crash_points import Fuse
from trading_system.ml_refinement.storage import SqliteConnection
from worker.cli.main import main

Fuse(nth=30).around(SqliteConnection, "run", before=True, only=lambda _, sql, *__: sql == "COMMIT")
main()
"""


def test_a_rebuild_that_is_killed_leaves_whole_vectors_and_the_next_one_finishes(tmp_path: Path) -> None:
    config = FeatureConfig(volatility_window=15)
    old, new = (FeaturePipeline(one).feature_version for one in (FeatureConfig(), config))
    events = [event(n) for n in range(COUNT)]
    with rebuild_installation(tmp_path / "live") as live:
        live.receive(events, config)
        wanted = features(live.store)
    with rebuild_installation(tmp_path / "var") as killed:
        killed.receive(events, FeatureConfig())
        before = features(killed.store)
    changes = {"REFINERY_STATE_DIR": str(tmp_path / "var"), "REFINERY_BATCH_SIZE": "2"}
    changes |= {"REFINERY_ML__FEATURES__VOLATILITY_WINDOW": "15"}
    command = [sys.executable, "-c", KILLED_BEFORE_A_COMMIT, "features", "rebuild"]
    assert subprocess.run(command, env={**os.environ, **changes}).returncode == -signals.SIGKILL
    with FeatureDatabase(tmp_path / "var" / "features.db") as store:
        left = store.versions.counts()
        assert left.keys() == {old, new}
        for signal_id, row in features(store).items():
            assert row == (wanted if row[2] == new else before)[signal_id]
        assert store.connection.query("PRAGMA integrity_check") == [("ok",)]
        settings = load_settings(state_dir=tmp_path / "var", batch_size=64, ml={"features": {"volatility_window": 15}})
        with app.feature_rebuild(settings) as job:
            assert job.run().rebuilt == left[old]
        assert features(store) == wanted
