"""The command `label`: virtual outcomes, how they ended, and whether they are what trades report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.options import Json, moment, settings_and_log
from worker.installation import existing_store
from worker.observability.printable import counted

if TYPE_CHECKING:
    from trading_system.ml_refinement.evaluation.virtual_comparison import VirtualComparison
    from trading_system.ml_refinement.labelling.rules import LabellingRule
    from worker.maintenance.labelling import Labelled
    from worker.settings.schema import Settings

_SETTLED = {
    "no_levels": "name no price and stop, or levels on the wrong side of their price",
    "not_filled": "opened beyond a level, or a whole stop distance from the signal's price: nobody takes that trade",
}
_NOT_RECEIVED = {
    "no_event": "did not come as events, so that nothing says where their stops were",
    "no_archived_event": "are not in the archive of events: never kept, or pruned",
    "other_event": "have another event in the archive than the one that was stored",
    "bad_event": "have an event that this release cannot read",
}


def label(
    since: Annotated[str, typer.Option(callback=moment, help="Only signals from this date or time on.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also those that have an outcome, as after a correction of the bars.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and store nothing.")] = False,
    json: Json = False,
) -> None:
    """Label signals by the bars that came after them: virtual outcomes by stop, target or time.

    Bars come from the market-data directory; for symbols that it does not have, from later signals that brought theirs.
    Virtual outcomes are kept apart from reported ones, which always win. Trainings learn from them where
    REFINERY_ML__VIRTUAL_OUTCOMES is `fill`, and then label by themselves. It may run while everything else does.
    """
    from trading_system.ml_refinement.evaluation.virtual_comparison import compare_virtual  # loads the learning stack
    from trading_system.ml_refinement.labelling.rules import labelling_rule
    from trading_system.ml_refinement.storage.times import parse_bound
    from worker.maintenance.labelling import labelling

    settings = settings_and_log()
    bound = parse_bound(since, end=False) if since else ""
    with existing_store(settings) as store:
        rule = labelling_rule(store, settings.ml)
        with labelling(settings, store, rule) as job, output.progress("labelling", unit="signals") as progress:
            done = job.run(since=bound, again=force, dry_run=dry_run, progress=progress)
        compared = compare_virtual(store, rule, train_window_days=settings.ml.training.train_window_days)
        stored = store.virtual_outcomes.counts()
    if json:
        output.document(_fields(done, rule, compared) | {"stored": stored, "dry_run": dry_run})
    else:
        _tell(done, rule, settings, dry_run=dry_run)
        output.line(compared.words)


def _fields(done: Labelled, rule: LabellingRule, compared: VirtualComparison) -> dict[str, Any]:
    """The outcome as plain values; what is not known is null."""
    from worker.report.formatting import plain_comparison  # loads the learning stack

    return {
        **asdict(done),
        "ended": dict(done.ended),
        "not_received": dict(done.not_received),
        "labelled": done.with_r,
        "hold_days": {**rule.hold_days, "*": rule.other_hold_days},
        "comparison": plain_comparison(compared),
    }


def _tell(done: Labelled, rule: LabellingRule, settings: Settings, *, dry_run: bool) -> None:
    ended = {name: done.ended.get(name, 0) for name in ("stop", "target", "time")}
    how = ", ".join(f"{count:,} by {name}" for name, count in ended.items())
    output.line(f"{counted(done.with_r, 'signal')} {'would get' if dry_run else 'got'} a virtual outcome: {how}")
    if done.known:
        output.line(f"{done.known:,} were settled before")
    if done.open:
        output.line(f"{done.open:,} are open: their bars end before the trade does; run it again when there are more")
    for name, told in (_SETTLED | _NOT_RECEIVED).items():
        if count := done.ended.get(name, 0) + done.not_received.get(name, 0):
            output.line(f"{count:,} have none: they {told}")
    if done.no_bars:
        where = "in REFINERY_MARKET_DATA_DIR" if settings.market_data_dir else "(REFINERY_MARKET_DATA_DIR is not set)"
        output.line(f"{done.no_bars:,} have no bars of their time {where}, and neither did they bring any")
    if done.passed_over:
        output.line(
            f"{done.passed_over:,} came while the next bar may have been open and were entered a bar later; where bars "
            "are sessions with breaks between them, REFINERY_ML__VIRTUAL_SESSION_HOURS says how long these are"
        )
    holds = [*(f"{name} {days:g}" for name, days in rule.hold_days.items()), f"others {rule.other_hold_days:g}"]
    given = "as set" if settings.ml.virtual_hold_days is not None else "as nine tenths of the reported trades lasted"
    output.line(f"time ends a trade after so many days, {given}: {', '.join(holds)}")
    if settings.ml.virtual_outcomes == "off":
        output.line("nothing is learned from them: REFINERY_ML__VIRTUAL_OUTCOMES is off")
