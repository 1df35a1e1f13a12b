"""Metrics and health: what is counted is what happened, and a slow or missing part never stops the worker."""

from __future__ import annotations

import json
import math
import re
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.labels import label
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.monitoring.drift import DRIFTED_SHARE
from trading_system.ml_refinement.monitoring.served import OUT_OF_DISTRIBUTION_SHARE
from worker import app
from worker.installation import open_store
from worker.observability import metrics
from worker.observability.metrics import LoopMetrics, MetricsServer, ObservedHandler
from worker.redis_server.connection import connect
from worker.settings.schema import Settings

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "refinery.rules.yml"
SUFFIXES = re.compile(r"_(bucket|count|sum)$")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=HANGS_AFTER_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by (name, label values...)."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def plain(condition: str) -> str:
    """A rule's condition as it is for one process."""
    return re.sub(r"max without \(instance, process\) \((\w+)\)", r"\1", condition)


def exposed(settings: object, url: str) -> set[str]:
    """The metrics that worker and trainer have, as they are scraped."""
    registry = CollectorRegistry()
    LoopMetrics(registry)
    server = MetricsServer(settings, url, port=0, registry=registry, loop=None)  # type: ignore[arg-type]
    names = set()
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        names.add(name)
    server.stop()
    return names


@pytest.fixture
def small_world(tmp_path: Path, valkey_url: str):  # type: ignore[no-untyped-def]
    """A worker's counters and its scrape after two signals, an outcome, a repeat and an unusable event."""
    settings = settings_for(tmp_path / "var", valkey_url)
    port = free_port()
    with (
        metrics.served(settings, valkey_url, port=port, loop=True) as counters,
        connect(valkey_url) as client,
        app.worker_consumer(
            settings,
            client,
            after_batch=lambda _, __: counters.came_round(),
            observed=lambda handler: ObservedHandler(handler, counters),
        ) as consumer,
    ):
        for event in (signal(1), signal(2), signal(1)):
            send(client, SIGNALS, event)
        send(client, SIGNALS, b"{")
        send(client, TRADES, outcome(1))
        for _ in range(6):
            consumer._step()
        yield settings, port, counters, client


def test_a_scrape_says_what_was_handled_and_what_waits(small_world) -> None:  # type: ignore[no-untyped-def]
    _, port, _, _ = small_world
    status, text = fetch(port, "/metrics")
    found = samples(text)
    assert status == 200
    assert found["refinery_events_received_total", SIGNALS] == 4
    assert found["refinery_events_received_total", TRADES] == 1
    outcomes = {
        name: found["refinery_events_total", name] for name in ("signal", "outcome", "duplicate", "dead_lettered")
    }
    assert outcomes == {"signal": 2, "outcome": 1, "duplicate": 1, "dead_lettered": 1}
    assert found["refinery_labels_total",] == 1
    assert found["refinery_event_latency_seconds_count",] == 5
    assert found["refinery_dead_letters_open", "bad_json"] == 1
    assert found["refinery_stream_pending", SIGNALS] == 0
    assert found["refinery_stream_lag", SIGNALS] == 0
    assert found["refinery_signals_stored",] == 2
    assert found["refinery_labels_since_training",] == 1
    assert (found["refinery_samples",], found["refinery_samples_for_model",]) == (1, 100)
    assert found["refinery_training_due",] == 0
    assert found["refinery_champion_proven",] == 0


def test_a_training_is_overdue_while_its_job_does_not_come_and_not_while_none_can_come(
    tmp_path: Path, valkey_url: str
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    off = settings.model_copy(update={"ml": replace(settings.ml, enabled=False)})
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    [rule] = [rule["expr"] for rule in rules if rule["alert"] == "RefineryTrainingOverdue"]
    name, number = plain(rule).split(" == ")

    def fires(settings: Settings = settings) -> bool:
        registry = CollectorRegistry()
        server = MetricsServer(settings, valkey_url, port=0, registry=registry, loop=None)
        value = registry.get_sample_value(name)
        server.stop()
        return value == float(number)

    with open_store(settings) as store:
        label(store, settings, 19)
        assert not fires()
        label(store, settings, 1, first=19)
        assert fires()  # no trainer takes it
        assert not fires(off)
        store.runs.start("retrain-signal_quality-0", "signal_quality", {}, label_watermark=20)
        store.runs.finish("retrain-signal_quality-0", "completed", verdict="hold", metrics={"samples": 18})
        assert not fires()
        label(store, settings, 10, first=20)
        store.runs.start("retrain-signal_quality-1", "signal_quality", {}, label_watermark=30)
        label(store, settings, 90, first=30)
        assert not fires()  # a training runs, and the next job waits for its end
        store.connection.run("UPDATE training_runs SET started_at = '2026-01-01T00:00:00.000000Z'")
        assert fires()  # it runs no more, and no trainer has noticed
        store.runs.finish("retrain-signal_quality-1", "failed", error_message="one_class: all 30 trades won")
        assert fires()
        store.runs.start("retrain-signal_quality-2", "signal_quality", {}, label_watermark=120)
        store.runs.finish("retrain-signal_quality-2", "completed", model_id="m", verdict="reject")
        assert not fires()
        store.connection.run("UPDATE training_runs SET started_at = '2026-01-01T00:00:00.000000Z'")
        assert not fires()  # time alone makes nothing due
        label(store, settings, 1, first=120)
        assert fires()


def test_trainings_that_found_too_few_samples_are_told_apart(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with open_store(settings) as store:
        label(store, settings, 45)
        store.runs.start("r1", "signal_quality", {}, label_watermark=40)
        store.runs.finish("r1", "completed", verdict="hold", metrics={"samples": 38})
        store.runs.start("r2", "signal_quality", {}, label_watermark=40)
        store.runs.finish("r2", "failed", error_message="killed: the process that trained it ended without a word")
    registry = CollectorRegistry()
    server = MetricsServer(settings, valkey_url, port=0, registry=registry, loop=None)
    assert registry.get_sample_value("refinery_trainings", {"verdict": "too_few_samples", "serves": ""}) == 1
    assert registry.get_sample_value("refinery_trainings", {"verdict": "failed", "serves": ""}) == 1
    assert registry.get_sample_value("refinery_trainings", {"verdict": "hold", "serves": "provisional"}) == 0
    assert registry.get_sample_value("refinery_samples") == 38 + 5
    server.stop()


def test_what_will_be_counted_is_there_before_the_first_event(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    port = free_port()
    with metrics.served(settings, valkey_url, port=port, loop=True):
        found = samples(fetch(port, "/metrics")[1])
    assert [found["refinery_events_received_total", stream] for stream in (SIGNALS, TRADES)] == [0, 0]
    assert found["refinery_events_total", "dead_lettered"] == 0
    assert [found["refinery_handler_failures_total", kind] for kind in ("transient", "event")] == [0, 0]
    assert found["process_resident_memory_bytes",] > 1e6


def test_health_and_readiness_are_200_while_the_loop_goes_round(small_world) -> None:  # type: ignore[no-untyped-def]
    _, port, _, _ = small_world
    assert fetch(port, "/healthz") == (200, '{"loop":true}\n')
    assert json.loads(fetch(port, "/readyz")[1]) == {"loop": True, "redis": True, "store": True}
    assert fetch(port, "/secret")[0] == 404


def test_a_loop_that_hangs_is_neither_healthy_nor_ready(small_world) -> None:  # type: ignore[no-untyped-def]
    _, port, counters, _ = small_world
    counters.last_round -= metrics.HUNG_S + 1
    assert fetch(port, "/healthz")[0] == 503
    assert fetch(port, "/readyz")[0] == 503


def test_a_lag_that_redis_cannot_tell_is_not_a_number_and_not_0(small_world) -> None:  # type: ignore[no-untyped-def]
    _, port, _, client = small_world
    first = send(client, SIGNALS, signal(7))
    send(client, SIGNALS, signal(8))
    client.xdel(SIGNALS, first)
    found = samples(fetch(port, "/metrics")[1])
    assert math.isnan(found["refinery_stream_lag", SIGNALS])
    assert found["refinery_stream_lag_known", SIGNALS] == 0


def test_without_redis_the_worker_is_healthy_and_not_ready(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "var", "redis://127.0.0.1:1/0")
    open_store(settings).close()
    port = free_port()
    with metrics.served(settings, "redis://127.0.0.1:1/0", port=port, loop=True) as counters:
        counters.last_round -= metrics.HUNG_S + 1
        assert fetch(port, "/healthz")[0] == 200
        assert fetch(port, "/readyz")[0] == 503
        found = samples(fetch(port, "/metrics")[1])
    assert found["refinery_redis_up",] == 0
    assert found["refinery_store_up",] == 1


def test_a_store_that_is_not_there_takes_its_figures_away(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    port = free_port()
    with metrics.served(settings, valkey_url, port=port, loop=False):
        found = samples(fetch(port, "/metrics")[1])
    assert found["refinery_store_up",] == 0
    assert ("refinery_signals_stored",) not in found


def test_a_port_that_is_taken_is_told_and_stops_nothing(
    tmp_path: Path, valkey_url: str, warnings_logged: list[str]
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with metrics.served(settings, valkey_url, port=port, loop=True) as counters:
            counters.came_round()
    assert any(f":{port} cannot be listened on" in line for line in warnings_logged)


def test_what_a_handler_raises_is_counted_and_goes_on(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    registry = CollectorRegistry()
    counters = LoopMetrics(registry)
    with desk(settings) as world:
        send(world.client, SIGNALS, signal(1))
        world.store.connection.run("DROP TABLE served_scores")
        observed = ObservedHandler(world.consumer._handler, counters)
        world.consumer._handler = observed
        world.drain(rounds=1)
    assert registry.get_sample_value("refinery_handler_failures_total", {"kind": "event"}) >= 1


def test_every_metric_is_documented_and_nothing_else_is(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    open_store(settings).close()
    documented = re.findall(r"^\| `(refinery_\w+)` \|", (ROOT / "docs" / "monitoring.md").read_text(), re.M)
    assert sorted(documented) == sorted(exposed(settings, valkey_url))


def test_every_metric_of_a_rule_exists_and_every_documented_alert_is_a_rule(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    open_store(settings).close()
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    known = exposed(settings, valkey_url)
    used = {SUFFIXES.sub("", name) for rule in rules for name in re.findall(r"refinery_\w+", rule["expr"])}
    assert used - known == set()
    alerts = {rule["alert"] for rule in rules}
    assert alerts == set(re.findall(r"\bRefinery[A-Z]\w+", (ROOT / "docs" / "monitoring.md").read_text()))
    headings = {
        "#" + re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    }
    assert {rule["annotations"]["runbook"].removeprefix("docs/operations.md") for rule in rules} <= headings


def test_the_limits_of_the_rules_are_those_of_the_code() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    conditions = {rule["alert"]: plain(rule["expr"]) for rule in rules if "alert" in rule}
    drifted, features = "refinery_drift_features_drifted", "refinery_drift_features"
    assert conditions["RefineryDrift"] == f"{drifted} > {DRIFTED_SHARE} * {features}"
    assert (
        conditions["RefineryOutOfDistribution"] == f"refinery_out_of_distribution_ratio > {OUT_OF_DISTRIBUTION_SHARE}"
    )
