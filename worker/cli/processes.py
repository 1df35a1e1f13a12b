"""The commands that run processes until they are stopped: `up`, `worker`, `trainer`, `console`, `demo`."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.options import (
    ConsolePort,
    Json,
    MetricsPort,
    StateDir,
    TrainerMetricsPort,
    given,
    settings_and_log,
)
from worker.errors import ConfigurationError, StopRequested
from worker.redis_server.connection import server_url
from worker.supervision.signals import stop_on_signals


def up(
    state_dir: StateDir = None,
    console_port: ConsolePort = None,
    metrics_port: MetricsPort = None,
    trainer_metrics_port: TrainerMetricsPort = None,
) -> None:
    """Run everything here: embedded Valkey (unless a URL is set), worker, trainer, console. Ctrl-C stops all."""
    stop = stop_on_signals()
    from worker.run.up import run_up  # with the log, which commands that look do without

    ports = given(console_port=console_port, metrics_port=metrics_port, trainer_metrics_port=trainer_metrics_port)
    run_up(settings_and_log(**given(state_dir=state_dir), **ports), stop)


def worker(
    slot: Annotated[
        int | None, typer.Option(help="Which of several workers on this machine this one is; else the first free one.")
    ] = None,
    processes_: Annotated[
        int, typer.Option("--processes", min=1, max=64, help="So many workers that share the load.")
    ] = 1,
    state_dir: StateDir = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Handle events until stopped: features, scores, labels.

    \f
    Raises:
        typer.BadParameter: a slot was named for several processes.
    """
    stop = stop_on_signals()
    if processes_ > 1 and slot is not None:
        raise typer.BadParameter("goes with a single process", param_hint="--slot")
    settings = settings_and_log(**given(consumer_slot=slot, state_dir=state_dir, metrics_port=metrics_port))
    if processes_ > 1:
        from worker.run.up import run_workers  # with the log, which commands that look do without

        run_workers(settings, processes_, stop)
    else:
        from worker.run.worker import run_worker  # loads the learning stack

        run_worker(settings, stop)


def gateway(
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen; else REFINERY_GATEWAY__SOCKET.", show_default=False)
    ] = None,
    group: Annotated[str | None, typer.Option(help="Who may connect; else REFINERY_GATEWAY__GROUP.")] = None,
) -> None:
    """Take events on a Unix-domain socket, for producers without a way to Redis, until stopped.

    Lines as `refinery publish` reads them; each is answered by a line when Redis has it, or with why it is refused.
    """
    stop = stop_on_signals()
    from worker.run.gateway import run_gateway  # loads numpy

    given = {name: value for name, value in (("socket", socket), ("group", group)) if value is not None}
    run_gateway(settings_and_log(**{"gateway": given} if given else {}), stop)


def trainer() -> None:
    """Run retraining jobs until stopped."""
    stop = stop_on_signals()
    from worker.run.trainer import run_trainer  # loads the learning stack

    run_trainer(settings_and_log(), stop)


class PlayedWorld(StrEnum):
    """What the demo plays."""

    MARKET = "market"
    EDGE = "edge"


def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="End when the replay has been drained.")] = False,
    json: Json = False,
    until: Annotated[str | None, typer.Option(help="Replay up to this day only, as 2006-12-31.")] = None,
    world: Annotated[
        PlayedWorld, typer.Option(help="Real prices, or a desk whose edge is planted.")
    ] = PlayedWorld.MARKET,
    state_dir: StateDir = None,
    console_port: ConsolePort = None,
    metrics_port: MetricsPort = None,
    trainer_metrics_port: TrainerMetricsPort = None,
) -> None:
    """Replay thirteen years of real daily prices through the real streams, in lockstep with retraining.

    With `--world edge` it is a made-up desk with a planted edge: the whole life of a model, from cold start to the
    end of its proof, in three minutes.

    \f
    Raises:
        StopRequested: it was told to stop before its end.
    """
    stop = stop_on_signals()
    from worker.demo import run as replay, worlds  # the demo's data packages are an extra

    report = (lambda summary: output.document(summary.to_json())) if json else replay.show
    played = worlds.edge_world if world is PlayedWorld.EDGE else worlds.real_prices
    ports = given(console_port=console_port, metrics_port=metrics_port, trainer_metrics_port=trainer_metrics_port)
    settings = settings_and_log(**given(state_dir=state_dir), **ports)
    replay.run(settings, stop, keep_running=not exit_, until=until, report=report, world=played)


def console() -> None:
    """Serve the console until stopped: pages for ops, and the RQ dashboard under them.

    REFINERY_CONSOLE_PORT=8800 refinery console

    \f
    Raises:
        ConfigurationError: the extra is missing.
    """
    stop = stop_on_signals()
    from worker.supervision.backoff import StartRetry  # with the log

    settings = settings_and_log()
    try:
        from worker.console.application import run_console  # its packages are an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'signal-refinery[console]'") from error
    with suppress(StopRequested), server_url(settings, retry=StartRetry(stop)) as url:
        run_console(settings, url, stop)
