"""The user's own sentences, with a worker and a trainer as real processes, a real server, and the settings' defaults.

"When a `signal.created` event arrives, features are extracted and stored, the active model's prediction is logged and
published. When `trade.closed` arrives, targets and prediction actuals are filled. An RQ retraining job is enqueued once
`min_new_samples_for_retrain` is met. A candidate replaces a proven model only through the gate."
"""

from __future__ import annotations

import signal as signals
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from rq import Queue

from tests.support import events
from tests.support.desk import scored, send
from tests.support.events import SCORES, SIGNALS, TRADES, bars
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement import FeatureConfig
from trading_system.ml_refinement.features import FeaturePipeline
from trading_system.ml_refinement.storage import FeatureDatabase

Start = Callable[[str], subprocess.Popen[bytes]]
FIRST = datetime(2025, 1, 6, 21, tzinfo=UTC)


def at(number: int) -> datetime:
    return FIRST + timedelta(days=number)


def signal(number: int, **changes: Any) -> dict[str, Any]:
    """A signal of that day with sixty bars of its own."""
    moved = {"timestamp": at(number).isoformat(), "bars": bars(end=at(number), seed=number)}
    return events.signal(number, **moved | changes)


def outcome(number: int, r_multiple: float = 1.5, **changes: Any) -> dict[str, Any]:
    """How that signal's trade ended two days later."""
    closed_at = (at(number) + timedelta(days=2)).isoformat()
    return events.outcome(number, r_multiple, **{"closed_at": closed_at} | changes)


def stored(installation: Installation, sql: str) -> list[tuple[Any, ...]]:
    """What any other program reads from the store."""
    with sqlite3.connect(f"file:{installation.state_dir}/features.db?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


def jobs(valkey: redis.Redis) -> list[str]:
    """Every job that RQ knows of, in any queue and any registry."""
    keys: Any = valkey.keys("rq:job:*")
    return sorted(key.decode() for key in keys if key.count(b":") == 2)


def queued(valkey: redis.Redis) -> list[str]:
    """Jobs that wait in RQ's queues."""
    return [job for queue in Queue.all(connection=valkey) for job in queue.job_ids]


def publish(installation: Installation, numbers: Sequence[int], r_multiples: Sequence[float] | None = None) -> None:
    """Signals and their outcomes, through `refinery publish`."""
    wins: Sequence[float] = r_multiples if r_multiples is not None else [(1.5, -1.0)[n % 2] for n in numbers]
    events = [{"type": "signal.created", **signal(n)} for n in numbers]
    events += [{"type": "trade.closed", **outcome(n, r)} for n, r in zip(numbers, wins, strict=True)]
    done = installation.run("publish", "-", stdin=b"\n".join(orjson.dumps(event) for event in events))
    assert done.returncode == 0, done.stderr


def status(installation: Installation) -> dict[str, Any]:
    found: dict[str, Any] = installation.document("status")
    return found


def labels(installation: Installation) -> int:
    """Signals whose outcome is filled in; 0 before there is a store."""
    try:
        [(count,)] = stored(installation, "SELECT COUNT(*) FROM feature_vectors WHERE target_r_multiple IS NOT NULL")
    except sqlite3.OperationalError:
        return 0
    return int(count)


def labelled(installation: Installation, count: int) -> None:
    wait_until(lambda: labels(installation) == count, lambda: status(installation))


def answered(valkey: redis.Redis, number: int) -> dict[str, Any] | None:
    """The newest answer to a signal, once there is one."""
    return next((answer for answer in reversed(scored(valkey)) if answer["signal_id"] == f"s-{number}"), None)


def a_later_batch_is_through(valkey: redis.Redis, number: int) -> None:
    """The worker has finished everything that belongs to what was published before."""
    send(valkey, SIGNALS, signal(number))
    wait_until(lambda: answered(valkey, number))


def test_a_signal_gets_its_features_and_an_answer_before_there_is_any_model(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    send(valkey, SIGNALS, signal(1))
    wait_until(lambda: scored(valkey))
    [answer] = scored(valkey)
    assert (answer["signal_id"], answer["status"], answer["proven"]) == ("s-1", "cold_start", False)
    assert [answer[name] for name in ("model_id", "quality_score", "quality_band", "predicted_r", "risk_r")] == [
        None
    ] * 5
    assert answer["combined_score"] == 6.0
    [(features, symbol, target)] = stored(
        installation, "SELECT features, symbol, target_r_multiple FROM feature_vectors WHERE signal_id = 's-1'"
    )
    assert (symbol, target) == ("ACME", None)
    told = orjson.loads(features)
    assert sorted(told) == sorted(FeaturePipeline(FeatureConfig()).get_feature_names())
    assert (told["technical_score"], told["conviction_high"], told["risk_reward_ratio"]) == (0.75, 1.0, 2.0)
    assert stored(installation, "SELECT COUNT(*) FROM prediction_log") == [(0,)]


def test_what_the_worker_stores_is_what_a_notebook_computes(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    import pandas as pd

    running("worker")
    event = signal(1)
    send(valkey, SIGNALS, event)
    wait_until(lambda: scored(valkey))
    columns = dict(event["bars"])
    frame = pd.DataFrame(columns, index=pd.to_datetime(columns.pop("timestamp")))
    expected = FeaturePipeline().extract_features("s-1", frame, event)
    with FeatureDatabase(installation.state_dir / "features.db") as db:
        vector = db.get_feature_vector("s-1")
    assert vector is not None
    assert vector.features == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_an_outcome_fills_the_target_also_when_it_comes_before_its_signal(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    send(valkey, TRADES, outcome(2, -1.0, return_pct=-5.0))
    send(valkey, SIGNALS, signal(1))
    send(valkey, TRADES, outcome(1, 1.5, return_pct=7.5))
    send(valkey, TRADES, outcome(3, 0.0))
    labelled(installation, 1)
    send(valkey, SIGNALS, signal(2))
    send(valkey, SIGNALS, signal(3))
    labelled(installation, 3)
    rows = stored(
        installation,
        "SELECT signal_id, target_r_multiple, target_binary, target_return_pct FROM feature_vectors ORDER BY signal_id",
    )
    assert rows == [("s-1", 1.5, 1, 7.5), ("s-2", -1.0, 0, -5.0), ("s-3", 0.0, 0, None)]


def test_an_event_delivered_twice_has_its_effect_once_and_a_correction_counts(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    for event in (signal(1), signal(1)):
        send(valkey, SIGNALS, event)
    for event in (outcome(1, 1.5), outcome(1, 1.5), outcome(1, -1.0, revision=1)):
        send(valkey, TRADES, event)
    a_later_batch_is_through(valkey, 9)
    labelled(installation, 1)
    wait_until(
        lambda: (
            stored(installation, "SELECT target_r_multiple FROM feature_vectors WHERE signal_id = 's-1'") == [(-1.0,)]
        )
    )
    told = status(installation)
    assert (told["signals"], told["labelled"], told["dead_letters"]) == (2, 1, 0)


def test_twenty_new_labels_are_one_job_and_nineteen_are_none(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    publish(installation, range(19))
    labelled(installation, 19)
    a_later_batch_is_through(valkey, 500)
    assert jobs(valkey) == []
    send(valkey, TRADES, outcome(500))
    wait_until(lambda: jobs(valkey))
    assert len(queued(valkey)) == 1
    publish(installation, range(20, 59))
    labelled(installation, 59)
    a_later_batch_is_through(valkey, 501)
    assert (len(jobs(valkey)), len(queued(valkey))) == (1, 1)


def test_a_job_with_too_few_samples_trains_nothing_says_so_and_waits_for_twenty_more(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    running("trainer")
    ended = "SELECT COUNT(*) FROM training_runs WHERE completed_at IS NOT NULL"
    for job, total in ((1, 20), (2, 40)):
        publish(installation, range(total - 20, total))
        wait_until(lambda job=job: at_rest(installation, valkey, 20 * job) and stored(installation, ended) == [(job,)])  # type: ignore[misc]
        told = status(installation)
        assert f"{total} of 100 samples" in str(told["last_training"])
        assert "hold" in str(told["last_training"])
        assert (told["new_labels"], told["champion"]) == (0, None)
    assert stored(installation, "SELECT status, model_id, error_message IS NULL FROM training_runs") == [
        ("completed", None, 1),
        ("completed", None, 1),
    ]
    assert stored(installation, "SELECT COUNT(*) FROM model_registry") == [(0,)]
    a_later_batch_is_through(valkey, 500)
    assert queued(valkey) == []
    words = installation.run("status").stdout.decode()
    assert "40 of 100" in words
    assert "a training is due" not in words


def edge(count: int, seed: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Signals whose technical score says something of how their trades end."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.0, 10.0, count).round(2).tolist()
    won = rng.random(count) < 1.0 / (1.0 + np.exp(-0.3 * (np.array(scores) - 5.0)))
    made = [signal(number, technical_score=score) for number, score in enumerate(scores)]
    return made, [outcome(number, 1.5 if win else -1.0) for number, win in enumerate(won.tolist())]


def at_rest(installation: Installation, valkey: redis.Redis, count: int) -> bool:
    """Everything was handled, and no training runs or waits."""
    if labels(installation) != count or queued(valkey):
        return False
    runs = stored(installation, "SELECT status FROM training_runs")
    return bool(runs) and ("running",) not in runs


def test_from_the_first_signal_to_predictions_that_are_logged_published_and_settled(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    worker = running("worker")
    trainer = running("trainer")
    made, ended = edge(300)
    for event in made:
        send(valkey, SIGNALS, event)
    for event in ended:
        send(valkey, TRADES, event)
    active = "SELECT model_id FROM model_registry WHERE model_type = 'signal_quality' AND is_active = 1"
    wait_until(
        lambda: at_rest(installation, valkey, 300) and stored(installation, active), lambda: status(installation)
    )

    for number, score in ((400, 9.5), (401, 0.5)):
        send(valkey, SIGNALS, signal(number, technical_score=score))
    wait_until(lambda: answered(valkey, 401))
    good, bad = scored(valkey)[-2:]
    assert (good["signal_id"], bad["signal_id"]) == ("s-400", "s-401")
    assert good["status"] == bad["status"] == "scored"
    assert 1.0 > good["quality_score"] > bad["quality_score"] > 0.0
    assert good["model_id"] == status(installation)["champion"]

    logged = "SELECT signal_id, quality_score, predicted_r, actual_r, prediction_error FROM prediction_log"
    only = f"{logged} WHERE model_id = '{good['model_id']}' AND signal_id IN ('s-400', 's-401') ORDER BY signal_id"
    assert [row[:2] for row in stored(installation, only)] == [
        ("s-400", good["quality_score"]),
        ("s-401", bad["quality_score"]),
    ]
    send(valkey, TRADES, outcome(400, 2.0))
    send(valkey, TRADES, outcome(401, -1.0))
    labelled(installation, 302)
    for (_, _, predicted_r, actual_r, error), ended_with in zip(stored(installation, only), (2.0, -1.0), strict=True):
        assert actual_r == ended_with
        assert error == (None if predicted_r is None else pytest.approx(ended_with - predicted_r))

    for process in (worker, trainer):
        process.send_signal(signals.SIGTERM)
        assert process.wait(HANGS_AFTER_S) == 0
    told = status(installation)
    assert (told["signals"], told["labelled"], told["dead_letters"], told["pending"]) == (302, 302, 0, 0)


def test_what_nothing_proves_moves_no_score_and_every_step_is_in_the_ledger(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    running("trainer")
    rng = np.random.default_rng(3)
    publish(installation, range(200), [1.5 if win else -1.0 for win in rng.random(200) < 0.45])
    wait_until(lambda: at_rest(installation, valkey, 200), lambda: status(installation))
    told = status(installation)
    assert told["proven"] is False
    send(valkey, SIGNALS, signal(400, combined_score=8.0))
    wait_until(lambda: answered(valkey, 400))
    answer = scored(valkey)[-1]
    assert answer["proven"] is False
    assert answer["combined_score"] == 8.0
    proven = "SELECT COUNT(*) FROM model_registry WHERE proven = 1 AND model_type = 'signal_quality'"
    assert stored(installation, proven) == [(0,)]
    runs = stored(installation, "SELECT status FROM training_runs")
    assert {run for (run,) in runs} == {"completed"}
    active = "SELECT model_id FROM model_registry WHERE model_type = 'signal_quality' AND is_active = 1"
    assert {model_id for (model_id,) in stored(installation, active)} == {told["champion"]} - {None}


def test_an_event_that_breaks_the_contract_is_kept_with_its_reason_and_stops_nobody(
    installation: Installation, running: Start, valkey: redis.Redis
) -> None:
    running("worker")
    later = bars(end=at(1) + timedelta(days=3))
    for event in (b"no json", signal(1, bars=later), signal(2, technical_score="strong"), signal(3)):
        send(valkey, SIGNALS, event)
    wait_until(lambda: scored(valkey))
    wait_until(lambda: stored(installation, "SELECT COUNT(*) FROM dead_letters") == [(3,)])
    letters = installation.document("dead-letters", "list")
    assert sorted(letter["reason"] for letter in letters) == ["bad_json", "lookahead", "schema"]
    assert [answer["signal_id"] for answer in scored(valkey)] == ["s-3"]
    assert valkey.xlen(SCORES) == 1
