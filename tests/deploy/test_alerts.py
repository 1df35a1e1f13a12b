"""Every alert rule fires where it should and stays silent where it should not: Prometheus's own `promtool` says so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.support.desk import settings_for
from worker.installation import open_store
from worker.observability.metrics import LoopMetrics, MetricsServer

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "refinery.rules.yml").read_text())["groups"]
    for rule in group["rules"]
}
PROMTOOL = shutil.which("promtool")
SIGNALS = '{stream="signals.created"}'
TRADES = '{stream="trades.closed"}'


@dataclass(frozen=True)
class Scenario:
    """What was scraped each minute, and what an alert said of it: when it was silent, and when it fired.

    `worker`, `trainer` and `both` hold series by name and labels, in promtool's notation of values. `labels` are those
    of the alert that fires, beside its severity and the job.
    """

    alert: str
    story: str
    silent: tuple[int, ...]
    fires: tuple[int, ...] = ()
    worker: dict[str, str] = field(default_factory=dict)
    trainer: dict[str, str] = field(default_factory=dict)
    both: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def series(self) -> dict[str, str]:
        """Every series with the labels of its target, and its values."""
        return {
            labelled(name, process): values
            for process, own in (("worker", self.worker), ("trainer", self.trainer))
            for name, values in (self.both | own).items()
        }


def labelled(name: str, process: str) -> str:
    metric, _, own = name.rstrip("}").partition("{")
    port = {"worker": 9464, "trainer": 9465}[process]
    target = f'job="refinery", process="{process}", instance="127.0.0.1:{port}"'
    return f"{metric}{{{', '.join(filter(None, (own, target)))}}}"


def on(process: str) -> dict[str, str]:
    return {"process": process, "instance": {"worker": "127.0.0.1:9464", "trainer": "127.0.0.1:9465"}[process]}


def both(
    alert: str, story: str, silent: int, fires: int, labels: dict[str, str] | None = None, **series: str
) -> Scenario:
    """A figure of the store, the same in both processes: silent at one minute, and fires once at the other."""
    named = {f"refinery_{name}": values for name, values in series.items()}
    return Scenario(alert, story, (silent,), (fires,), both=named, labels=labels or {})


def quiet(alert: str, story: str, *minutes: int, **series: str) -> Scenario:
    return Scenario(alert, story, minutes, both={f"refinery_{name}": values for name, values in series.items()})


DAY = 1440
UP = {"up": "1x900"}
SCENARIOS = [
    Scenario("RefineryProcessDown", "the worker dies", (10, 31), (34,), {"up": "1x30 0x60"}, UP, labels=on("worker")),
    Scenario("RefineryProcessDown", "the trainer dies", (10, 31), (34,), UP, {"up": "1x30 0x60"}, labels=on("trainer")),
    Scenario("RefineryProcessDown", "a restart between two scrapes", (20, 31, 33), (), {"up": "1x30 0 1x60"}, UP),
    Scenario("RefineryNotScraped", "both are scraped", (10, 60), (), UP, UP),
    Scenario("RefineryNotScraped", "nobody scrapes the trainer", (4,), (6,), UP, {}, labels={"process": "trainer"}),
    Scenario(
        "RefineryNotScraped", "the worker's target goes", (30,), (60,), {"up": "1x30"}, UP, labels={"process": "worker"}
    ),
    Scenario("RefineryRedisAway", "Redis dies", (30,), (33,), {"refinery_redis_up": "1x30 0x30"}, labels=on("worker")),
    Scenario("RefineryRedisAway", "it restarts", (30, 31, 33), (), {"refinery_redis_up": "1x30 0 1x30"}),
    Scenario(
        "RefineryStoreUnreadable",
        "the disk dies",
        (30,),
        (33,),
        {"refinery_store_up": "1x30 0x30"},
        labels=on("worker"),
    ),
    Scenario(
        "RefineryPaused", "the store was moved", (30,), (33,), {"refinery_paused": "0x30 1x30"}, labels=on("worker")
    ),
    Scenario("RefineryPaused", "a moment", (30, 31, 33), (), {"refinery_paused": "0x30 1 0x30"}),
    Scenario(
        "RefineryLagGrows",
        "a backlog that grows by a hundred a minute, then is worked off",
        (10, 15, 80),
        (30,),
        both={f"refinery_stream_lag{SIGNALS}": "0+100x40 4000-100x30 0x30"},
        labels={"stream": "signals.created"},
    ),
    Scenario(
        "RefineryStoreFailedOver",
        "a standby takes over",
        (30, 110),
        (35,),
        both={"refinery_store_failovers_total": "0x30 1x90"},
    ),
    Scenario(
        "RefineryRedisFailedOver",
        "a replica takes over",
        (30, 110),
        (35,),
        both={"refinery_redis_failovers_total": "0x30 1x90"},
    ),
    Scenario(
        "RefineryMarketDataDiffers",
        "new bars come to one host, then to the other",
        (10, 20, 40),
        both={"refinery_market_data_contents": "1x10 2x5 1x30"},
    ),
    Scenario(
        "RefineryMarketDataDiffers",
        "one host gets none",
        (10, 40),
        (50,),
        both={"refinery_market_data_contents": "1x30 2x90"},
    ),
    Scenario(
        "RefineryUnreadEntriesGone",
        "a producer trims a backlog",
        (30, 110),
        (35,),
        both={f"refinery_stream_unread_gone_total{SIGNALS}": "0x30 40x90"},
        labels={"stream": "signals.created"},
    ),
    Scenario(
        "RefineryStreamAhead",
        "a producer chooses an id, and its stream is begun anew",
        (30, 70),
        (35,),
        both={f"refinery_stream_ahead_seconds{TRADES}": "0x30 86400-60x30 0x30"},
        labels={"stream": "trades.closed"},
    ),
    Scenario(
        "RefineryLagUnknown", "Redis tells the lag", (120,), (), both={f"refinery_stream_lag_known{SIGNALS}": "1x200"}
    ),
    Scenario(
        "RefineryLagUnknown",
        "somebody deleted entries",
        (60,),
        (100,),
        both={f"refinery_stream_lag_known{SIGNALS}": "1x30 0x100"},
        labels={"stream": "signals.created"},
    ),
    Scenario(
        "RefineryNothingIsHandled",
        "the worker is gone, and 41 signals wait for eight hours",
        (20,),
        (60, 480),
        worker={f"refinery_stream_lag{SIGNALS}": "0x30", f"refinery_events_received_total{SIGNALS}": "0+1x30"},
        trainer={
            f"refinery_stream_lag{SIGNALS}": "0x30 41x480",
            f"refinery_stream_pending{SIGNALS}": "0x520",
            f"refinery_stream_lag{TRADES}": "0x520",
        },
        labels={"stream": "signals.created"},
    ),
    Scenario(
        "RefineryNothingIsHandled",
        "a worker hangs on what it has read",
        (20, 30),
        (60,),
        both={f"refinery_stream_pending{TRADES}": "0x20 7x60", f"refinery_stream_lag{TRADES}": " ".join(["NaN"] * 81)},
        worker={f"refinery_events_received_total{TRADES}": "0x80"},
        labels={"stream": "trades.closed"},
    ),
    Scenario(
        "RefineryNothingIsHandled",
        "a backfill of signals, while no trade closes",
        (15, 60, 120),
        worker={
            f"refinery_events_received_total{SIGNALS}": "0+500x180",
            f"refinery_events_received_total{TRADES}": "0x180",
            f"refinery_stream_pending{SIGNALS}": "512x180",
            f"refinery_stream_lag{SIGNALS}": "90000-500x180",
            f"refinery_stream_pending{TRADES}": "0x180",
            f"refinery_stream_lag{TRADES}": "0x180",
        },
    ),
    Scenario(
        "RefineryHandlingFails",
        "from the very first failure on",
        (10,),
        (40,),
        worker={'refinery_handler_failures_total{kind="event"}': "0x30 0+1x30"},
        labels={"kind": "event"},
    ),
    Scenario(
        "RefineryHandlingFails",
        "three tries against a locked store",
        (10, 35, 60),
        worker={'refinery_handler_failures_total{kind="transient"}': "0x30 3x60"},
    ),
    Scenario(
        "RefinerySlow",
        "two workers, and half of the events wait for minutes",
        (10,),
        (60,),
        worker={f'refinery_event_latency_seconds_bucket{{le="{le}"}}': "0+5x90" for le in ("1", "60")}
        | {f'refinery_event_latency_seconds_bucket{{le="{le}"}}': "0+10x90" for le in ("300", "+Inf")},
    ),
    Scenario(
        "RefinerySlow",
        "everything within a second",
        (10, 60),
        worker={f'refinery_event_latency_seconds_bucket{{le="{le}"}}': "0+10x90" for le in ("1", "60", "300", "+Inf")},
    ),
    Scenario(
        "RefineryBatchesSlow",
        "a dying disk",
        (10,),
        (60,),
        worker={'refinery_batch_seconds_bucket{le="5"}': "0x90"}
        | {f'refinery_batch_seconds_bucket{{le="{le}"}}': "0+4x90" for le in ("15", "+Inf")},
    ),
    Scenario(
        "RefineryBatchesSlow",
        "a healthy one",
        (60,),
        worker={f'refinery_batch_seconds_bucket{{le="{le}"}}': "0+4x90" for le in ("0.005", "15", "+Inf")},
    ),
    both("RefineryWalGrows", "a reader holds the log", 20, 60, store_wal_bytes="4e6x30 6e8x60"),
    quiet("RefineryWalGrows", "each of two processes tells of the same 300 MB", 60, store_wal_bytes="3e8x90"),
    Scenario(
        "RefineryDeadLetters",
        "letters of two reasons wait for more than an hour, then are dealt with",
        (30, 200),
        (100,),
        both={
            'refinery_dead_letters_open{reason="bad_json"}': "2x150 0x60",
            'refinery_dead_letters_open{reason="no_market_data"}': "1x150 0x60",
            "refinery_dead_letter_oldest_seconds": "0+60x150 0x60",
        },
    ),
    Scenario(
        "RefineryManyDeadLetters",
        "one event in ten is refused",
        (20,),
        (60,),
        worker={
            'refinery_events_total{outcome="dead_lettered"}': "0x30 0+1x60",
            'refinery_events_total{outcome="signal"}': "0+10x90",
            f"refinery_events_received_total{SIGNALS}": "0+8x90",
            f"refinery_events_received_total{TRADES}": "0+2x90",
        },
    ),
    Scenario(
        "RefineryManyDeadLetters",
        "every event kills its batch and is put away alone",
        (5,),
        (60,),
        worker={
            'refinery_events_total{outcome="dead_lettered"}': "0+1x90",
            f"refinery_events_received_total{SIGNALS}": "0x90",
        },
    ),
    Scenario(
        "RefineryManyDeadLetters",
        "one in a hundred",
        (60,),
        worker={
            'refinery_events_total{outcome="dead_lettered"}': "0+1x90",
            f"refinery_events_received_total{SIGNALS}": "0+100x90",
        },
    ),
    both("RefineryOutcomesWithoutSignals", "other ids", 30, 120, outcomes_waiting="0x30 101x120"),
    quiet("RefineryOutcomesWithoutSignals", "sixty, told twice, are sixty", 120, outcomes_waiting="60x150"),
    both(
        "RefineryIncompleteSignals",
        "an extractor fails",
        20,
        40,
        signals_stored="100x60",
        signals_incomplete="5x30 6x30",
    ),
    both("RefineryNoLabels", "two weeks", 10, 30, newest_label_age_seconds="1209590+1x60"),
    both("RefineryTrainingOverdue", "nobody takes the job", 20, 61, training_due="0x30 1x60"),
    quiet("RefineryTrainingOverdue", "a trainer that is busy with another", 25, 45, training_due="0x20 1x20 0x20"),
    both(
        "RefineryTrainingsFail",
        "the first two that there ever were",
        60,
        300,
        {"verdict": "failed", "serves": ""},
        **{'trainings{verdict="failed",serves=""}': "0x100 1x100 2x400"},
    ),
    quiet("RefineryTrainingsFail", "one", 150, 600, **{'trainings{verdict="failed",serves=""}': "0x100 1x800"}),
    quiet(
        "RefineryTrainingsFail", "two, days ago", 5, DAY, **{'trainings{verdict="failed",serves=""}': f"2x{2 * DAY}"}
    ),
    both("RefineryChampionOld", "sixty days", 10, 30, champion_age_seconds="5183000+60x60"),
    both(
        "RefineryWorseThanBaseRate",
        "a proven champion falls behind",
        80,
        200,
        live_log_loss="0.68x90 0.71x200",
        live_base_rate_log_loss="0.69x300",
        live_rows="500x300",
        champion_proven="1x300",
    ),
    quiet(
        "RefineryWorseThanBaseRate",
        "one that only serves provisionally",
        200,
        live_log_loss="0.71x300",
        live_base_rate_log_loss="0.69x300",
        live_rows="500x300",
        champion_proven="0x300",
    ),
    quiet(
        "RefineryWorseThanBaseRate",
        "too few rows to tell",
        200,
        live_log_loss="0.71x300",
        live_base_rate_log_loss="0.69x300",
        live_rows="150x300",
        champion_proven="1x300",
    ),
    both(
        "RefineryMiscalibrated",
        "four times what chance shows",
        80,
        200,
        live_calibration_error="0.02x90 0.09x200",
        live_calibration_error_by_chance="0.02x300",
        live_rows="500x300",
    ),
    both(
        "RefineryDrift",
        "a third of the features",
        100,
        600,
        drift_features="60x900",
        drift_features_drifted="3x120 20x700",
    ),
    both("RefineryOutOfDistribution", "half of the signals", 100, 600, out_of_distribution_ratio="0.1x120 0.5x700"),
    both(
        "RefineryProofEnded",
        "skill does not show any more",
        20,
        40,
        {"reason": "skill_not_shown"},
        **{'not_proven{reason="skill_not_shown"}': "0x30 1x30", 'not_proven{reason="never_shown"}': "0x60"},
    ),
    quiet("RefineryProofEnded", "nothing was ever proven", 40, **{'not_proven{reason="never_shown"}': "1x60"}),
    both(
        "RefineryAlarm",
        "calibration",
        80,
        200,
        {"alarm": "calibration"},
        **{'alarm{alarm="calibration"}': "_x90 1x200"},
    ),
    quiet(
        "RefineryAlarm", "one that goes by itself", 80, 120, 200, **{'alarm{alarm="calibration"}': "_x90 1x40 _x100"}
    ),
    both("RefineryNotificationsWait", "the receiver is down", 60, 100, notification_oldest_seconds="0x20 0+60x100"),
    quiet(
        "RefineryNotificationsWait", "it is down for an hour", 84, 120, notification_oldest_seconds="0x20 0+60x63 0x60"
    ),
    Scenario(
        "RefineryChampionDoesNotFit",
        "the worker was restarted with other features, the trainer was not",
        (20, 33),
        (40,),
        worker={"refinery_champion_fits": "1x30 0x60"},
        trainer={"refinery_champion_fits": "1x90"},
    ),
]


def document(scenarios: list[Scenario]) -> dict[str, Any]:
    """The scenarios as `promtool test rules` reads them."""
    return {
        "rule_files": [str(PROMETHEUS / "refinery.rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": f"{one.alert}: {one.story}",
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in one.series().items()],
                "alert_rule_test": [
                    {
                        "alertname": one.alert,
                        "eval_time": f"{minute}m",
                        "exp_alerts": [expected(one)] if minute in one.fires else [],
                    }
                    for minute in one.silent + one.fires
                ],
            }
            for one in scenarios
        ],
    }


def expected(one: Scenario) -> dict[str, Any]:
    rule = RULES[one.alert]
    return {
        "exp_labels": {"job": "refinery"} | rule["labels"] | {k: v for k, v in one.labels.items() if v},
        "exp_annotations": rule["annotations"],
    }


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
@pytest.mark.parametrize("alert", RULES)
def test_an_alert_fires_and_does_not_fire(alert: str, tmp_path: Path) -> None:
    assert PROMTOOL is not None
    file = tmp_path / "scenarios.json"  # JSON is YAML
    file.write_text(json.dumps(document([one for one in SCENARIOS if one.alert == alert])))
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_scenario_in_which_it_fires_and_a_moment_of_silence() -> None:
    assert {one.alert for one in SCENARIOS} == RULES.keys()
    for alert in RULES:
        mine = [one for one in SCENARIOS if one.alert == alert]
        assert any(one.fires for one in mine), alert
        assert any(one.silent for one in mine), alert


def test_scenarios_are_made_of_series_that_are_served(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    open_store(settings).close()
    registry = CollectorRegistry()
    LoopMetrics(registry, ("signals.created", "trades.closed"))
    server = MetricsServer(settings, valkey_url, port=0, registry=registry, loop=None)
    families = list(registry.collect())
    server.stop()
    served = {(sample.name, *sorted(sample.labels)) for family in families for sample in family.samples}
    unsampled = {family.name for family in families if not family.samples}  # a fresh store has no letters, no champion
    for one in SCENARIOS:
        for series in one.both | one.worker | one.trainer:
            metric, _, labels = series.partition("{")
            told = (metric, *sorted(re.findall(r"(\w+)=", labels)))
            assert told in served or metric in unsampled or metric == "up", series


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
@pytest.mark.parametrize(
    "arguments", [("rules", "refinery.rules.yml"), *(("config", f"prometheus{of}.yml") for of in ("", ".compose"))]
)
def test_promtool_reads_what_is_shipped(arguments: tuple[str, str]) -> None:
    assert PROMTOOL is not None
    command = [PROMTOOL, "check", arguments[0], str(PROMETHEUS / arguments[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
