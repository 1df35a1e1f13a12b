"""Hosts that share a store tell each other what their market-data directories hold, and whoever asks who differs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from tests.support.desk import settings_for
from tests.support.events import GROUP, SIGNALS
from tests.support.postgres_server import needs_postgres
from tests.support.waiting import wait_until
from tests.support.workers_on_hosts import Start
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.market_data.hosts import count_different, tell, telling, told
from worker.observability.checks.data import look_at_hosts
from worker.observability.findings import Finding
from worker.observability.metrics import MetricsServer
from worker.settings.schema import Settings

KEY = f"refinery:market-data:{GROUP}@{SIGNALS}"
LONG_S = 3600.0


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    return settings_for(tmp_path / "var", valkey_url, store_url="postgresql://refinery@/refinery")


def has(settings: Settings, valkey: redis.Redis, worker: str, *, holds_s: float = LONG_S, **files: str) -> None:
    mine = settings.model_copy(update={"consumer_name": worker})
    tell(mine, valkey, {f"{symbol}.csv": digest for symbol, digest in files.items()}, holds_s=holds_s)


def verdicts(findings: list[Finding]) -> list[str]:
    return [finding.verdict for finding in findings]


def test_hosts_with_the_same_files_are_fine(settings: Settings, valkey: redis.Redis) -> None:
    assert list(look_at_hosts(settings)) == []
    for worker in ("one", "other"):
        has(settings, valkey, worker, ACME="aa", OMEGA="bb")
    (finding,) = look_at_hosts(settings)
    assert (finding.verdict, finding.says) == ("ok", "the same in 2 workers of all hosts")
    assert count_different(settings, valkey) == 1


def test_who_differs_and_in_which_files_is_told_beside_what_most_have(settings: Settings, valkey: redis.Redis) -> None:
    for worker in ("b1", "b2", "b3", "b4", "b5"):
        has(settings, valkey, worker, ACME="aa", OMEGA="bb", ONLY="cc")
    has(settings, valkey, "a", ACME="ab", OMEGA="bb", **{f"S{number}": "ff" for number in range(12)})
    (finding,) = look_at_hosts(settings)
    assert finding.verdict == "warn"
    assert finding.says == (
        "a-0 and b1-0, b2-0, b3-0 and 2 more have other files: differ: ACME.csv; only the first: "
        "S0.csv, S1.csv, S10.csv, S11.csv, S2.csv and 7 more; only the second: ONLY.csv; "
        "features depend on who takes a signal"
    )
    assert count_different(settings, valkey) == 2


def test_what_a_worker_said_ends_with_it_and_nothing_is_left(settings: Settings, valkey: redis.Redis) -> None:
    for number in range(50):
        has(settings, valkey, "appends", ACME=f"{number:02x}")
    has(settings, valkey, "gone", holds_s=0.0, ACME="aa")
    fields: Any = valkey.hkeys(KEY)
    assert len(fields) == 2  # one worker and its newest files
    assert [one.workers for one in told(settings, valkey)] == [("appends-0",)]
    valkey.hset(KEY, "worker late", "1 aa")  # nobody has written since its time was over
    assert count_different(settings, valkey) == 1
    assert 0 < int(valkey.pttl(KEY)) <= 1000 * LONG_S  # type: ignore[arg-type]


def test_one_with_little_time_takes_none_from_the_others(settings: Settings, valkey: redis.Redis) -> None:
    has(settings, valkey, "long", ACME="aa")
    has(settings, valkey, "short", holds_s=1.0, ACME="aa")
    assert int(valkey.pttl(KEY)) > 60_000  # type: ignore[arg-type]


def test_what_no_worker_wrote_is_told_without_names_and_breaks_nothing(settings: Settings, valkey: redis.Redis) -> None:
    has(settings, valkey, "one", ACME="aa")
    valkey.hset(KEY, "worker odd", f"{2**52} beef")
    valkey.hset(KEY, "files beef", "no JSON")
    valkey.hset(KEY, "worker nonsense", "?")
    assert verdicts(list(look_at_hosts(settings))) == ["warn"]


def test_a_store_that_no_hosts_share_is_not_looked_at(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> None:
    alone = settings_for(tmp_path / "var", valkey_url)
    for worker, digest in (("one", "aa"), ("other", "bb")):
        has(alone, valkey, worker, ACME=digest)
    assert list(look_at_hosts(alone)) == []


def test_a_worker_alone_says_nothing(tmp_path: Path, valkey_url: str, valkey: redis.Redis, settings: Settings) -> None:
    for one, says in ((settings_for(tmp_path / "alone", valkey_url), False), (settings, True)):
        with telling(one, valkey):
            assert any(thread.name == "market-data" for thread in threading.enumerate()) is says


@needs_postgres
def test_workers_on_hosts_tell_what_they_have_and_the_metric_counts_it(
    start_on_host: Start,
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    postgres_store: FeatureDatabase,
    postgres_url: str,
) -> None:
    markets = {"one": "1,2,3", "other": "1,2,3", "third": "1,2,4"}
    for name, text in markets.items():
        (tmp_path / f"market-{name}").mkdir()
        (tmp_path / f"market-{name}" / "ACME.csv").write_text(text)
    shared = settings_for(tmp_path / "here", valkey_url, store_url=postgres_url)
    for name in ("one", "other"):
        start_on_host(name, REFINERY_CONSUMER_NAME=name, REFINERY_MARKET_DATA_DIR=str(tmp_path / f"market-{name}"))
    wait_until(lambda: sum(len(same.workers) for same in told(shared, valkey)) == 2)
    assert verdicts(list(look_at_hosts(shared))) == ["ok"]
    start_on_host("third", REFINERY_CONSUMER_NAME="third", REFINERY_MARKET_DATA_DIR=str(tmp_path / "market-third"))
    wait_until(lambda: count_different(shared, valkey) == 2)
    (finding,) = look_at_hosts(shared)
    assert finding.says.startswith("third-")
    assert "differ: ACME.csv;" in finding.says
    registry = CollectorRegistry()
    server = MetricsServer(shared, valkey_url, port=0, registry=registry, loop=None)
    assert registry.get_sample_value("refinery_market_data_contents") == 2
    server.stop()
