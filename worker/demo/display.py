"""What one sees of a replay: a live picture while it runs (stderr), and its summary at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.text import Text

from trading_system.ml_refinement.standing import IN_WORDS, Standing
from worker.demo.edge import PlantedEdge
from worker.demo.replay import Progress
from worker.demo.summary import Group as Band, OutOfSample, Summary
from worker.observability.status import Status
from worker.observability.terminal import Table, grid, print_line, styled

if TYPE_CHECKING:
    from rich.console import Console

#: The demo that the real one names when it ends.
OTHER = "refinery demo --world edge --exit"
_LEGEND = (
    "[dim]lowest, middle, highest: mean R by third of the scores; moved: combined score, from the desk's own; "
    "reached: of the attainable AUC over 0.5[/]"
)
#: Events per second are counted over this long, trainings included.
_RATE_WINDOW_S = 5.0
#: Without a terminal, one line for every so many moments.
_LINE_EVERY = 250


@contextmanager
def live_display(
    console: Console, title: str = "", news: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Callable[[Progress], None]]:
    """A picture that follows the replay on a terminal; elsewhere a line now and then.

    On both, a line when what serves begins to be proven or is not any more, and `news` on their days.
    """
    picture = _Picture(title)
    to_come = sorted(news.items())

    def tell(progress: Progress) -> None:
        while to_come and progress.at[:10] >= to_come[0][0]:
            _say(console, "{}: {}".format(*to_come.pop(0)))
        if picture.show(progress):
            _say(console, f"{progress.at[:10]}: {_turn(progress.status.standing)}")
        if not console.is_terminal:
            _line(console, picture)

    if not console.is_terminal:
        yield tell
        return
    with Live(get_renderable=lambda: picture, console=console, refresh_per_second=4, transient=True):
        yield tell


def _say(console: Console, words: str) -> None:
    print_line(console.file, words)


def _turn(standing: Standing | None) -> str:
    """How what serves stands from now on; without its day, which is the store's and not the replay's."""
    if standing is None:
        return "no model serves"
    state = "proven" if standing.not_proven is None else f"not proven ({IN_WORDS[standing.not_proven]})"
    return f"what serves is {state}: {standing.why}"


class _Picture:
    """The newest progress as a panel; rich asks for it whenever it draws."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._standing: object = None
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

    def show(self, progress: Progress) -> bool:
        """Take up the newest progress; True where what serves stands otherwise than before."""
        now = time.monotonic()
        self._progress = progress
        self._seen.append((now, progress.published))
        while now - self._seen[0][0] > _RATE_WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        last = progress.status.last_training
        if last is not None:
            (self._runs.discard if last.too_few_samples else self._runs.add)(last.run_id)
        standing = progress.status.standing
        before, self._standing = self._standing, None if standing is None else (standing.proven, standing.not_proven)
        return before != self._standing

    def events_per_s(self) -> float:
        (since, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - since) if now > since else 0.0

    def __rich__(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Panel("starting server, worker and trainer", title="Signal Refinery")
        status = progress.status
        facts = grid(between=3)
        champion = "none yet" if status.champion is None else f"{status.champion} ({_standing(status.proven)})"
        facts.add_row(_dim("replayed to"), styled("[bold]{}[/]", progress.at[:10]), _dim("now"), _phase(progress))
        facts.add_row(
            _dim("events per second"), f"{self.events_per_s():,.0f}", _dim("published"), f"{progress.published:,}"
        )
        facts.add_row(_dim("scored"), f"{progress.scored:,}", _dim("labelled"), f"{status.labelled:,}")
        facts.add_row(
            _dim("retrainings"),
            f"{self.retrainings}",
            _dim("next after"),
            f"{status.new_labels} of {status.min_new_labels} new labels{_samples(status)}",
        )
        letters = styled("[bold red]{}[/]", str(status.dead_letters)) if status.dead_letters else "0"
        facts.add_row(_dim("dead letters"), letters, _dim("champion"), champion)
        bar = ProgressBar(total=progress.moments, completed=progress.moment)
        return Panel(Group(facts, "", bar), title=f"Signal Refinery: {self._title}", padding=(1, 2))


def show_summary(summary: Summary, console: Console) -> None:
    """The summary for people."""
    found = summary.out_of_sample
    if summary.planted is not None:
        _say(console, summary.planted.planted)
    console.print(_facts(summary))
    if summary.planted is not None:
        console.print(_life(summary.planted), soft_wrap=True)
        console.print(_LEGEND, soft_wrap=True)
    elif found.n:
        console.print(_evidence(found))
        console.print(_bands(found))
    print_line(console.file, styled("[bold]{}[/]", summary.verdict))
    if summary.planted is None:
        _say(console, "")
        _say(console, f"Where there is something to learn, it looks like this: {OTHER}")


def _facts(summary: Summary) -> Table:
    facts = grid(between=3)
    cold = f"{summary.cold_start:,} cold starts (no model yet)"
    facts.add_row(_dim("signals"), f"{summary.signals:,}: {summary.scored:,} scored, {cold}")
    facts.add_row(_dim("outcomes"), f"{summary.outcomes:,}: {summary.labelled:,} labelled")
    served = f"{summary.promoted} promoted, {summary.provisional} not proven: serve provisionally"
    ends = f"{served}, {summary.not_serving} do not serve, {summary.failures} failed"
    facts.add_row(_dim("retrainings"), f"{summary.retrainings}: {ends}")
    if summary.too_few_samples:
        facts.add_row("", f"and {summary.too_few_samples} jobs that found too few samples and trained nothing")
    wrong = summary.lost or summary.duplicated or summary.dead_letters
    kept = f"{summary.lost} lost, {summary.duplicated} duplicated, {summary.dead_letters} dead letters"
    facts.add_row(_dim("kept"), styled("[bold red]{}[/]", kept) if wrong else kept)
    facts.add_row(_dim("took"), f"{summary.seconds:.0f} s")
    return facts


def _life(planted: PlantedEdge) -> Table:
    """The phases of the edge's life: what scores were worth in each, and whether they moved anything."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("phase", "since", "signals", "lowest", "middle", "highest", "moved", "reached"):
        table.add_column(head, no_wrap=True)
    for phase in planted.phases:
        if phase.signals:
            thirds = ["-"] * 3 if phase.thirds is None else [f"{value:+.2f}" for value in phase.thirds]
            reached = "-" if phase.reached is None else f"{phase.reached:.0%}"
            table.add_row(phase.name, phase.since, f"{phase.signals:,}", *thirds, _figure(phase.moved, 2), reached)
    return table


def _evidence(found: OutOfSample) -> Table:
    table = Table("out of sample", "scores", "base rate", box=None, pad_edge=False, header_style="bold")
    interval = "" if found.auc_interval is None else " [{:.3f}, {:.3f}]".format(*found.auc_interval)
    table.add_row(f"AUC, {found.n:,} trades", f"{_figure(found.auc, 3)}{interval}", "0.500")
    table.add_row("log loss", _figure(found.log_loss, 4), _figure(found.base_rate_log_loss, 4))
    return table


def _bands(found: OutOfSample) -> Table:
    table = Table("score", "trades", "won", "mean R", box=None, pad_edge=False, header_style="bold")
    for name, band in [*found.bands.items(), *((f"{name} third", band) for name, band in found.thirds.items())]:
        table.add_row(name, *_band(band))
    table.add_row(styled("[bold]{}[/]", "all"), *_band(Band(found.n, found.base_rate, found.mean_r)))
    return table


def _band(band: Band) -> tuple[str, str, str]:
    won = "-" if band.win_rate is None else f"{100 * band.win_rate:.0f} %"
    return f"{band.n:,}", won, "-" if band.mean_r is None else f"{band.mean_r:+.3f}"


def _line(console: Console, picture: _Picture) -> None:
    progress = picture.progress
    if progress is None or progress.phase != "replaying" or progress.moment % _LINE_EVERY:
        return
    status = progress.status
    _say(
        console,
        f"{progress.at[:10]}: {progress.published:,} published, {progress.scored:,} scored, "
        f"{status.labelled:,} labelled, {picture.retrainings} retrainings, champion {status.champion or 'none'}, "
        f"{status.dead_letters} dead letters",
    )


def _samples(status: Status) -> str:
    return f", {status.samples} of {status.min_samples} samples" if status.samples < status.min_samples else ""


def _phase(progress: Progress) -> Text:
    due = {"training": "waiting for the training", "queued": "a retraining is due"}.get(progress.phase)
    return styled("[yellow]{}[/]", due) if due else Text("replaying")


def _dim(label: str) -> Text:
    return styled("[dim]{}[/]", label)


def _standing(proven: bool) -> str:
    return "proven" if proven else "provisional"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
