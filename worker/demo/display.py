"""What one sees of a replay: a live picture while it runs (stderr), and its summary at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from worker.demo.replay import Progress
from worker.demo.summary import Group as Band, OutOfSample, Summary
from worker.observability.status import Status

#: Events per second are counted over this long, trainings included.
_RATE_WINDOW_S = 5.0
#: Without a terminal, one line for every so many moments.
_LINE_EVERY = 250


@contextmanager
def live_display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A picture that follows the replay on a terminal; elsewhere a line now and then."""
    picture = _Picture()
    if not console.is_terminal:

        def tell(progress: Progress) -> None:
            picture.show(progress)
            _line(console, picture)

        yield tell
        return
    with Live(get_renderable=lambda: picture, console=console, refresh_per_second=4, transient=True):
        yield picture.show


class _Picture:
    """The newest progress as a panel; rich asks for it whenever it draws."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._runs: set[str] = set()

    @property
    def progress(self) -> Progress | None:
        return self._progress

    @property
    def retrainings(self) -> int:
        """Trainings that were seen to begin, and not seen to end for want of samples."""
        return len(self._runs)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        self._progress = progress
        self._seen.append((now, progress.published))
        while now - self._seen[0][0] > _RATE_WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        last = progress.status.last_training
        if last is not None:
            (self._runs.discard if last.too_few_samples else self._runs.add)(last.run_id)

    def events_per_s(self) -> float:
        (since, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - since) if now > since else 0.0

    def __rich__(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Panel("starting server, worker and trainer", title="Signal Refinery")
        status = progress.status
        grid = Table.grid(padding=(0, 3))
        champion = "none yet" if status.champion is None else f"{status.champion} ({_standing(status.proven)})"
        grid.add_row("[dim]replayed to[/]", f"[bold]{progress.at[:10]}[/]", "[dim]now[/]", _phase(progress))
        grid.add_row(
            "[dim]events per second[/]", f"{self.events_per_s():,.0f}", "[dim]published[/]", f"{progress.published:,}"
        )
        grid.add_row("[dim]scored[/]", f"{progress.scored:,}", "[dim]labelled[/]", f"{status.labelled:,}")
        grid.add_row(
            "[dim]retrainings[/]",
            f"{self.retrainings}",
            "[dim]next after[/]",
            f"{status.new_labels} of {status.min_new_labels} new labels{_samples(status)}",
        )
        letters = f"[bold red]{status.dead_letters}[/]" if status.dead_letters else "0"
        grid.add_row("[dim]dead letters[/]", letters, "[dim]champion[/]", escape(champion))
        bar = ProgressBar(total=progress.moments, completed=progress.moment)
        return Panel(Group(grid, "", bar), title="Signal Refinery: thirteen years of real prices", padding=(1, 2))


def show_summary(summary: Summary, console: Console) -> None:
    """The summary for people."""
    found = summary.out_of_sample
    console.print(_facts(summary))
    if found.n:
        console.print(_evidence(found))
        console.print(_bands(found))
    console.print(f"[bold]{escape(summary.verdict)}[/]", soft_wrap=True)


def _facts(summary: Summary) -> Table:
    grid = Table.grid(padding=(0, 3))
    cold = f"{summary.cold_start:,} cold starts (no model yet)"
    grid.add_row("[dim]signals[/]", f"{summary.signals:,}: {summary.scored:,} scored, {cold}")
    grid.add_row("[dim]outcomes[/]", f"{summary.outcomes:,}: {summary.labelled:,} labelled")
    served = f"{summary.promoted} promoted, {summary.provisional} not proven: serve provisionally"
    ends = f"{served}, {summary.not_serving} do not serve, {summary.failures} failed"
    grid.add_row("[dim]retrainings[/]", f"{summary.retrainings}: {ends}")
    if summary.too_few_samples:
        grid.add_row("", f"and {summary.too_few_samples} jobs that found too few samples and trained nothing")
    wrong = summary.lost or summary.duplicated or summary.dead_letters
    kept = f"{summary.lost} lost, {summary.duplicated} duplicated, {summary.dead_letters} dead letters"
    grid.add_row("[dim]kept[/]", f"[bold red]{kept}[/]" if wrong else kept)
    grid.add_row("[dim]took[/]", f"{summary.seconds:.0f} s")
    return grid


def _evidence(found: OutOfSample) -> Table:
    table = Table("out of sample", "scores", "base rate", box=None, pad_edge=False, header_style="bold")
    interval = "" if found.auc_interval is None else " [{:.3f}, {:.3f}]".format(*found.auc_interval)
    table.add_row(f"AUC, {found.n:,} trades", escape(f"{_figure(found.auc, 3)}{interval}"), "0.500")
    table.add_row("log loss", _figure(found.log_loss, 4), _figure(found.base_rate_log_loss, 4))
    return table


def _bands(found: OutOfSample) -> Table:
    table = Table("score", "trades", "won", "mean R", box=None, pad_edge=False, header_style="bold")
    for name, band in [*found.bands.items(), *((f"{name} third", band) for name, band in found.thirds.items())]:
        table.add_row(name, *_band(band))
    table.add_row("[bold]all[/]", *_band(Band(found.n, found.base_rate, found.mean_r)))
    return table


def _band(band: Band) -> tuple[str, str, str]:
    won = "-" if band.win_rate is None else f"{100 * band.win_rate:.0f} %"
    return f"{band.n:,}", won, "-" if band.mean_r is None else f"{band.mean_r:+.3f}"


def _line(console: Console, picture: _Picture) -> None:
    progress = picture.progress
    if progress is None or progress.phase != "replaying" or progress.moment % _LINE_EVERY:
        return
    status = progress.status
    console.print(
        f"{progress.at[:10]}: {progress.published:,} published, {progress.scored:,} scored, "
        f"{status.labelled:,} labelled, {picture.retrainings} retrainings, champion {status.champion or 'none'}, "
        f"{status.dead_letters} dead letters",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _samples(status: Status) -> str:
    return f", {status.samples} of {status.min_samples} samples" if status.samples < status.min_samples else ""


def _phase(progress: Progress) -> str:
    return {"training": "[yellow]waiting for the training[/]", "queued": "[yellow]a retraining is due[/]"}.get(
        progress.phase, "replaying"
    )


def _standing(proven: bool) -> str:
    return "proven" if proven else "provisional"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
