"""The demo as it runs: a state directory of its own, the processes, the replay, and at the end both sides compared."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import pandas as pd
import redis

from trading_system.ml_refinement.config import FeatureConfig, MLConfig, ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.simulation.market_data import BENCHMARK, write_directory
from trading_system.simulation.timeline import Moment
from worker.demo.display import live_display, show_summary
from worker.demo.edge import PLANTED, planted_edge
from worker.demo.played import Played
from worker.demo.replay import MarketReplay, ReplayTimeouts
from worker.demo.summary import Held, Learned, Summary, summarise
from worker.demo.worlds import DemoWorld, real_prices
from worker.errors import ConfigurationError, RefineryError, StopRequested
from worker.installation import open_store, streams_of
from worker.observability.status import Status, read_status
from worker.observability.terminal import console, print_line
from worker.redis_server.connection import connect, server_url
from worker.retraining.lease import trainer_at_work
from worker.retraining.requests import reason_if_due
from worker.run.up import running, up_roles
from worker.settings.messages import CONFIG_NAME
from worker.settings.schema import Settings, is_given
from worker.state_dir import make_private, take_lock
from worker.streams.errors import translated
from worker.supervision.children import Children

_MARK: Final = "demo.txt"
_MARK_TEXT: Final = "State of `refinery demo`: the next demo deletes this directory.\n"
_ALL: Final = 1_000_000
_POLL_S: Final = 0.5


def run(
    settings: Settings,
    stop: threading.Event,
    *,
    keep_running: bool,
    until: str | None = None,
    report: Callable[[Summary], None] = lambda _: None,
    world: Callable[[], DemoWorld] = real_prices,
) -> Summary:
    """Play a world through a server, a worker and a trainer of the demo's own.

    They work in `demo` below the state directory, which begins empty each time: a replay does not belong among real
    signals. A configured Redis is used only where its database is empty.

    Args:
        settings: of the installation; its own state is not touched.
        stop: set when it shall end.
        keep_running: leave everything up after the replay until `stop` is set.
        until: the last day that is replayed, as 2006-12-31; None replays all.
        report: given the summary as soon as the replay has been drained, while everything is still up.
        world: what is played; where its edge is planted, that is said before anything else, on stderr.

    Raises:
        RefineryError: one line: the demo's data are missing, its place is taken, or a process did not do its part.
        StopRequested: told to stop before the end; everything has been ended.
    """
    if settings.on_cluster:
        raise ConfigurationError("the demo wants one server, and REFINERY_REDIS_URL names a cluster: unset it")
    last_day = _day(until)
    played = world()
    if played.desk is not None:
        print_line(sys.stderr, PLANTED)
    played = replace(played, timeline=up_to(played.timeline, last_day))
    chosen = demo_settings(settings, played)
    _end_if_told(stop)
    with own_place(chosen.state_dir), _everything(chosen, played.market) as (url, children):
        with connect(url) as client, open_store(chosen) as store:
            summary = _play(chosen, client, store, played, tend=partial(_tend, children, stop))
        report(summary)
        if keep_running:
            _keep_running(chosen, children, stop)
    return summary


def show(summary: Summary) -> None:
    """The summary as tables on stdout."""
    show_summary(summary, console(sys.stdout))


def demo_settings(settings: Settings, world: DemoWorld) -> Settings:
    """The settings of the demo's processes: a state of their own, and the world's prices, features and pace."""
    state_dir = settings.state_dir / "demo"
    training: dict[str, Any] = dict(world.training)
    pace: dict[str, Any] = {"min_new_samples_for_retrain": world.min_new_samples}
    ml = replace(
        settings.ml,
        features=world.features or settings.ml.features,
        **{name: value for name, value in pace.items() if not is_given("ml", name)},
        training=replace(
            settings.ml.training,
            **{name: value for name, value in training.items() if not is_given("ml", "training", name)},
        ),
    )
    return settings.model_copy(
        update={
            "state_dir": state_dir,
            "market_data_dir": state_dir / "market",
            "benchmark_symbols": {"equity": BENCHMARK},
            "console_port": _free_port(settings),
            "ml": ml,
            "store_url": None,
            "store_read_url": None,
            "shards": 1,
        }
    )


def environment_of(chosen: Settings, url: str) -> Mapping[str, str]:
    """What another process has to be told to work with `demo_settings`, beside this process's own environment."""
    return {
        "REFINERY_REDIS_URL": url,
        "REFINERY_QUEUE_URL": url,  # its trainings are nobody else's
        "REFINERY_STORE_URL": "",  # and neither is its store
        "REFINERY_STORE_READ_URL": "",
        "REFINERY_SHARDS": "1",
        "REFINERY_STATE_DIR": str(chosen.state_dir),
        "REFINERY_MARKET_DATA_DIR": str(chosen.market_data_dir),
        "REFINERY_CONSOLE_PORT": str(chosen.console_port),
        "REFINERY_BENCHMARK_SYMBOLS": orjson.dumps(chosen.benchmark_symbols).decode(),
        "REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN": str(chosen.ml.min_new_samples_for_retrain),
        "REFINERY_ML__TRAINING__TRAIN_WINDOW_DAYS": str(chosen.ml.training.train_window_days),
        "REFINERY_ML__TRAINING__STEP_SIZE_DAYS": str(chosen.ml.training.step_size_days),
        **{f"REFINERY_ML__FEATURES__{name.upper()}": text for name, text in _features(chosen).items()},
        "REFINERY_LOG_LEVEL": "ERROR" if chosen.log_level == "ERROR" else "WARNING",
    }


def config_of(chosen: Settings) -> str:
    """`demo_settings` as a file of settings, for commands that are run in the demo's directory."""
    told: dict[str, Any] = {
        "state_dir": str(chosen.state_dir),
        "market_data_dir": str(chosen.market_data_dir),
        "console_port": chosen.console_port,
        **({} if chosen.redis_url is None else {"redis_url": chosen.redis_url}),
        "benchmark_symbols": dict(chosen.benchmark_symbols),
    }
    learning, plain = asdict(chosen.ml), asdict(MLConfig())
    for derived in ("model_dir", "feature_db_path"):
        del learning[derived]
    head = "# The settings of this demo: commands that are run in this directory read them.\n"
    return head + "".join(_tables(told | {"ml": _given(learning, plain)}, ""))


def _given(told: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it is by default, table by table."""
    found = {}
    for name, value in told.items():
        usual = plain.get(name)
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            found[name] = _given(value, usual)
        elif value != usual and value is not None:
            found[name] = value
    return found


def _tables(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Lines of TOML, which writes single values and lists of them as JSON does."""
    if name and any(not isinstance(value, Mapping) for value in values.values()):
        yield f"\n[{name}]\n"
    for key, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {orjson.dumps(value).decode()}\n"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _tables(value, f"{name}.{key}".lstrip("."))


def _features(chosen: Settings) -> Mapping[str, str]:
    """The feature settings that are not the defaults, as the environment has them."""
    return {
        name: str(value) if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in _given_features(chosen).items()
    }


def _given_features(chosen: Settings) -> Mapping[str, Any]:
    told, plain = asdict(chosen.ml.features), asdict(FeatureConfig())
    return {name: value for name, value in told.items() if value != plain[name]}


@contextmanager
def own_place(state_dir: Path) -> Iterator[None]:
    """An empty private directory, held by this process while the block runs; an earlier demo's state is deleted.

    Raises:
        ConfigurationError: the directory is there and no demo made it.
        RefineryError: another demo is running in it.
    """
    make_private(state_dir.parent)
    lock = take_lock(state_dir.parent / "demo.lock")
    if lock is None:
        raise RefineryError(f"another demo is running in {state_dir}")
    try:
        if state_dir.exists():
            if not (state_dir / _MARK).is_file():
                raise ConfigurationError(f"{state_dir} exists and was not made by a demo: move it out of the way")
            shutil.rmtree(state_dir)
        make_private(state_dir)
        (state_dir / _MARK).write_text(_MARK_TEXT, encoding="utf-8")
        yield
    finally:
        os.close(lock)


def up_to(timeline: Sequence[Moment], last_day: date | None) -> Sequence[Moment]:
    """The moments of the days up to and including `last_day`; all without one."""
    if last_day is None:
        return timeline
    return [moment for moment in timeline if moment.instant[:10] <= last_day.isoformat()]


def learned(store: FeatureDatabase) -> Learned:
    """How the trainings ended, and how their candidates serve."""
    runs = [run for run in store.runs.recent(_ALL) if run.model_type == ModelType.SIGNAL_QUALITY]
    over = [run for run in runs if run.status != "running"]
    ended = [run for run in over if run.samples_found is None]
    ways = Counter("failed" if run.status == "failed" else run.serves for run in ended)
    return Learned(
        retrainings=len(ended),
        promoted=ways["proven"],
        provisional=ways["provisional"],
        not_serving=ways["no"],
        failures=ways["failed"],
        too_few_samples=len(over) - len(ended),
    )


def held(store: FeatureDatabase, played: Played) -> Held:
    """What of the published events the store holds, an outcome only with the very figure that was published."""
    counts = store.counts()
    kept = {
        outcome["signal_id"]
        for outcome in played.outcomes
        if any(row.r_multiple == outcome["r_multiple"] for row in store.outcomes.history(outcome["signal_id"]))
    }
    return Held(
        signals=counts.signals,
        outcomes=counts.outcomes,
        labelled=counts.labelled,
        dead_letters=counts.dead_letters_open,
        signal_ids=frozenset(store.vectors.known([signal["signal_id"] for signal in played.signals])),
        outcome_ids=frozenset(kept),
    )


def _play(
    chosen: Settings,
    client: redis.Redis,
    store: FeatureDatabase,
    world: DemoWorld,
    *,
    tend: Callable[[], None],
) -> Summary:
    def look() -> Status:
        return read_status(chosen, store, client)

    news = {} if world.desk is None else {world.desk.died_on: "the edge dies, and nobody is told"}
    with live_display(console(sys.stderr), world.title, news) as tell:
        played = MarketReplay(
            client,
            world.timeline,
            streams=streams_of(chosen),
            group=chosen.streams.group,
            look=look,
            is_due=lambda _: learning_goes_on(chosen, store),
            tend=tend,
            on_progress=tell,
            timeouts=ReplayTimeouts(training_s=chosen.training_timeout_s),
        ).run()
    planted = None if world.desk is None else planted_edge(played, world.desk)
    return summarise(played, learned(store), held(store, played), planted)


def learning_goes_on(chosen: Settings, store: FeatureDatabase) -> bool:
    """Whether a training is due, or one is going on: it looks at what was served before it ends."""
    return reason_if_due(chosen, store) is not None or trainer_at_work(store) is not None


def _end_if_told(stop: threading.Event) -> None:
    if stop.is_set():
        raise StopRequested("the replay was stopped before its end, and all that it started with it")


def _tend(children: Children, stop: threading.Event) -> None:
    _end_if_told(stop)
    children.tend()


def _keep_running(chosen: Settings, children: Children, stop: threading.Event) -> None:
    console_url = ""
    if "console" in up_roles(chosen):
        children.start("console")
        console_url = f"http://{chosen.console_host}:{chosen.console_port}"
    words = f"Everything is still up, in {chosen.state_dir}; Ctrl-C ends it. To look around meanwhile:"
    about = (
        f"  cd {shlex.quote(str(chosen.state_dir))} and then refinery status, evaluate, tune, ...: its {CONFIG_NAME}"
    )
    lines = ["", words, *([f"  {console_url}"] if console_url else []), f"{about} has the demo's settings"]
    for line in lines:
        print_line(sys.stderr, line)
    while not stop.wait(_POLL_S):
        children.tend()


def _free_port(settings: Settings) -> int:
    """The port of the console, or where another process has it, one that is free; 0 where there is to be none."""
    for port in (settings.console_port, 0) if settings.console_port else ():
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.console_host, port))
            return int(probe.getsockname()[1])
    return 0


@contextmanager
def _everything(chosen: Settings, market: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Children]]:
    """Server, worker and trainer over the demo's market data, while the block runs."""
    write_directory(market, chosen.state_dir / "market")
    with open(os.open(chosen.state_dir / CONFIG_NAME, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        file.write(config_of(chosen))  # the address of Redis may hold a password
    with server_url(chosen) as url:
        _refuse_other_data(chosen, url)
        children = Children(environment_of(chosen, url), grace_s=chosen.shutdown_grace_s)
        with running(children, "worker", "trainer"):
            yield url, children


def _refuse_other_data(chosen: Settings, url: str) -> None:
    with connect(url) as client, translated():
        if client.dbsize():
            raise ConfigurationError(
                f"the demo wants an empty Redis database, and {chosen.masked_redis_url} has data: "
                "unset REFINERY_REDIS_URL, or name another database"
            )


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise RefineryError(f"--until must be a day such as 2006-12-31, and is {text!r}") from None
