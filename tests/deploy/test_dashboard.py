"""The dashboard asks for what worker and trainer export, in words that Prometheus understands, and is laid out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from tests.support.composed import free_port
from tests.support.events import SCORES, SIGNALS
from tests.support.real_processes import QUIET, REFINERY
from tests.support.waiting import HANGS_AFTER_S, wait_until

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "refinery.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES += [(one["name"], one["expr"]) for one in DASHBOARD["annotations"]["list"]]
PROMTOOL = shutil.which("promtool")
#: Prometheus adds these to what it scrapes.
OF_PROMETHEUS = {"job", "instance", "process"}
#: There are no samples of these before a model serves or an alarm is raised; each with the labels that it gets then.
LATER = {
    "refinery_champion_age_seconds": set(),
    "refinery_newest_label_age_seconds": set(),
    "refinery_alarm": {"alarm"},
}
LATER |= {"refinery_live_" + name: set() for name in ("log_loss", "base_rate_log_loss", "auc", "lift")}
LATER |= {f"refinery_live_calibration_error{of}": set() for of in ("", "_by_chance")}
LATER |= {"refinery_out_of_distribution_ratio": set()}


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a query names, with the labels that it asks of it."""
    for name, matchers in re.findall(r"\b(up|(?:refinery|process)_\w+)\b(?:\{([^}]*)\})?", query):
        if name != "process":
            yield name, set(re.findall(r"(\w+)\s*[!=]~?", matchers))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, valkey_server: Any) -> dict[str, set[str]]:
    """Metrics with their labels, as a real worker and a real trainer answer a scrape after some events."""
    ports = {"worker": free_port(), "trainer": free_port()}
    environment = {
        **os.environ,
        **QUIET,
        "REFINERY_STATE_DIR": str(tmp_path_factory.mktemp("dashboard") / "var"),
        "REFINERY_REDIS_URL": valkey_server.url,
        "REFINERY_METRICS_PORT": str(ports["worker"]),
        "REFINERY_TRAINER_METRICS_PORT": str(ports["trainer"]),
    }
    found: dict[str, set[str]] = defaultdict(set)
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.xadd(SIGNALS, {"data": b"{"})
        client.xgroup_create(SCORES, "desk", id="0", mkstream=True)
        processes = [subprocess.Popen([*REFINERY, role], env=environment, stderr=subprocess.PIPE) for role in ports]
        try:
            for port in ports.values():
                for family in text_string_to_metric_families(scraped_when_handled(port)):
                    found[family.name] |= set()
                    for sample in family.samples:
                        found[sample.name] |= set(sample.labels)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.communicate(timeout=HANGS_AFTER_S)
    return found


def scraped_when_handled(port: int) -> str:
    wait_until(lambda: "refinery_dead_letters_open{" in scraped(port), lambda: scraped(port))
    return scraped(port)


def scraped(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_every_metric_and_label_of_a_query_is_exported_by_real_processes(exported: dict[str, set[str]]) -> None:
    assert len(QUERIES) > 40
    wrong = []
    for title, query in QUERIES:
        for name, labels in selectors(query):
            if name == "up":
                continue
            known = exported.get(name)
            if name in LATER and not known:
                known = LATER[name] if name in exported else None
            if known is None or labels - known - OF_PROMETHEUS:
                wrong.append((title, name, labels))
    assert wrong == []


def test_legends_name_labels_that_the_query_leaves(exported: dict[str, set[str]]) -> None:
    wrong = []
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            left = set(OF_PROMETHEUS)
            for name, _ in selectors(target["expr"]):
                left |= exported.get(name, set()) | LATER.get(name, set())
            gone = set(re.findall(r"\w+", " ".join(re.findall(r"without \(([^)]*)\)", target["expr"]))))
            if named - (left - gone):
                wrong.append((panel["title"], target["legendFormat"]))
    assert wrong == []


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m").replace("$job", "refinery")}
        for number, (_, query) in enumerate(QUERIES)
    ]
    file = tmp_path / "queries.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_panels_have_what_grafana_needs_and_lie_beside_each_other() -> None:
    assert {panel["type"] for panel in DASHBOARD["panels"]} <= {"row", "timeseries", "stat"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("signal-refinery", "Signal Refinery")
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    used = {json.dumps(one["datasource"]) for panel in PANELS for one in (panel, *panel["targets"])}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "job"]
    places = [set(cells(panel["gridPos"])) for panel in DASHBOARD["panels"]]
    assert all(not one & other for one, other in combinations(places, 2)), "panels overlap"


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_a_metric_that_is_not_there_is_noticed() -> None:
    found = dict(selectors('max without (instance, process) (refinery_lag{job="$job", strem="x"}) > up'))
    assert found == {"refinery_lag": {"job", "strem"}, "up": set()}
