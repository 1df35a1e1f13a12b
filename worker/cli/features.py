"""The commands of `refinery features`: what is computed, and computing it again for what is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.options import CONTEXT, Json, settings_and_log
from worker.installation import existing_store
from worker.observability.terminal import Table

if TYPE_CHECKING:
    from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition
    from trading_system.ml_refinement.features.pipeline import FeaturePipeline
    from worker.maintenance.rebuild import NotRebuilt, Rebuilt
    from worker.market_data.missing import MissingBars

features = typer.Typer(
    context_settings=CONTEXT,
    help="What each feature means, and computing stored vectors again when the features have changed.",
)


#: Of what was not rebuilt, so many are named to a person; `--json` has them all.
_NAMED = 20


@features.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False) -> None:
    """The features that these settings choose: name, category, range, lookback, meaning."""
    if context.invoked_subcommand is not None:
        return
    from worker.installation import feature_pipeline  # with numpy, which takes long to load

    pipeline = feature_pipeline(settings_and_log())
    if json:
        output.document(_pipeline_fields(pipeline))
        return
    _show_definitions(pipeline.definitions())
    looks = f"looks back {pipeline.lookback_bars} bars"
    output.line(f"{len(pipeline.names)} features, version {pipeline.feature_version}, {looks}")


@features.command("rebuild")
def rebuild(
    force: Annotated[bool, typer.Option("--force", help="Also those of the current version.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are to compute.")] = False,
    json: Json = False,
) -> None:
    """Compute stored vectors of another feature version again, each as of its own time.

    From the archived events, and for events without bars from the market-data directory. Labels, predictions and what
    was published stay. It may run while the worker does, and be ended and started again: it goes on with what is left.
    What cannot be computed stays as it is, and is listed with its reason.
    """
    from worker.app import feature_rebuild  # loads the learning stack

    with feature_rebuild(settings_and_log()) as job:
        pending = job.pending(force=force)
        if dry_run:
            _tell_pending(pending, json=json)
            return
        with output.progress("rebuilding", unit="vectors", total=sum(pending.values())) as progress:
            done = job.run(force=force, progress=progress)
    if json:
        output.document(asdict(done))
    else:
        _tell(done)


@features.command("missing")
def missing(json: Json = False) -> None:
    """Symbols and times that the market-data directory has no usable bars for, while signals wait for them.

    When the bars are there, let the signals in: refinery dead-letters replay --all --reason no_market_data
    """
    from worker.market_data.missing import missing_bars  # loads numpy

    with existing_store(settings_and_log()) as store:
        rows = missing_bars(store)
    if json:
        output.document([output.fields(row) for row in rows])
    elif rows:
        _show_missing(rows)
    else:
        output.line("no signal waits for bars")


def _show_missing(rows: Sequence[MissingBars]) -> None:
    for row in rows:
        times = f"{row.first[:19]}Z" + (f" to {row.last[:19]}Z" if row.last != row.first else "")
        signals = f"{row.signals:,} signal" + ("s" if row.signals > 1 else "")
        output.line(f"{row.symbol}: {signals} of {times} wait. {row.detail}")


def _tell_pending(pending: dict[str, int], *, json: bool) -> None:
    if json:
        output.document(pending)
        return
    for version, count in pending.items():
        output.line(f"{count:,} vectors of {version}")
    output.line(f"{sum(pending.values()):,} to compute")


def _tell(done: Rebuilt) -> None:
    output.line(f"{done.rebuilt:,} rebuilt as {done.feature_version}, {done.unchanged:,} said so already")
    if done.overtaken:
        output.line(f"{done.overtaken:,} were changed meanwhile and left alone: run it again for them")
    if not done.not_rebuilt:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in done.obstacles.items())
    output.line(f"{len(done.not_rebuilt):,} stay as they are: {reasons}")
    _show_left(done.not_rebuilt[:_NAMED])
    if len(done.not_rebuilt) > _NAMED:
        output.line(f"... and {len(done.not_rebuilt) - _NAMED:,} more: --json lists them all")


def _show_left(left: Sequence[NotRebuilt]) -> None:
    table = Table("signal", "symbol", "as of", "reason", "detail", box=None, header_style="dim")
    for one in left:
        texts = (one.signal_id, one.symbol or "", one.timestamp[:19], one.obstacle.value, one.detail)
        table.add_row(*texts)
    output.table(table)


def _show_definitions(definitions: Sequence[FeatureDefinition]) -> None:
    table = Table("feature", "category", "range", "neutral", "bars", "meaning", box=None, header_style="dim")
    for one in definitions:
        reach = "all" if one.lookback_bars is None else str(one.lookback_bars or "")
        texts = (one.name, one.category, _range(one), f"{one.neutral:g}", reach, one.meaning)
        table.add_row(*texts)
    output.table(table)


def _range(one: FeatureDefinition) -> str:
    low = "any" if math.isinf(one.low) else f"{one.low:g}"
    high = "any" if math.isinf(one.high) else f"{one.high:g}"
    return "any" if low == high == "any" else f"{low} to {high}"


def _pipeline_fields(pipeline: FeaturePipeline) -> dict[str, Any]:
    """The pipeline as plain values; a bound that is not there is null, as is the lookback over all bars given."""
    rows = [asdict(one) for one in pipeline.definitions()]
    for row in rows:
        row |= {name: None if math.isinf(row[name]) else row[name] for name in ("low", "high")}
    return {
        "feature_version": pipeline.feature_version,
        "feature_set": pipeline.config.feature_set.value,
        "lookback_bars": pipeline.lookback_bars,
        "features": rows,
    }
