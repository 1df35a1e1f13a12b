"""The state of the installation as the first page shows it, and the answer on top: is it alive, is it learning?"""

from __future__ import annotations

from dataclasses import dataclass

from trading_system.ml_refinement.standing import IN_WORDS
from worker.console.filters import age_s, span
from worker.observability.status import Monitoring, Status, training_waits_for

#: A worker or trainer that has not been heard of for this long is not counted as alive.
SILENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """A worker or a trainer, as Redis knows it."""

    name: str
    kind: str
    silent_s: float
    doing: str

    @property
    def alive(self) -> bool:
        return self.silent_s < SILENT_S


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the installation, and what it should be compared with."""

    status: Status
    processes: tuple[Process, ...]
    #: A training waits or runs; None when neither, or Redis does not answer.
    training: str | None
    oldest_pending_s: float | None
    per_second: float | None
    per_second_5min: float | None
    dead_since: str | None
    dead_reasons: tuple[tuple[str, int], ...]

    @property
    def workers(self) -> int:
        return sum(p.alive for p in self.processes if p.kind == "worker")

    @property
    def trainers(self) -> int:
        return sum(p.alive for p in self.processes if p.kind == "trainer")


def verdict(seen: Overview) -> tuple[str, str, str]:
    """Is it alive, is it learning? A tone, the answer, and the words that explain it."""
    status = seen.status
    if status.pending is None:
        return (
            "bad",
            "Redis does not answer.",
            "What is shown below is what the store holds. Nothing is lost meanwhile.",
        )
    if seen.workers == 0:
        return "bad", "No worker is running.", f"{status.pending:,} events are pending. Start one: refinery worker"
    if not status.champion_fits:
        says = f"{status.champion} was fitted on other features than the settings make, so nothing is scored."
        return "bad", "Running, not scoring.", f"{says} Put the feature settings back, or train: refinery retrain"
    learning = [_champion_words(status), _training_words(seen)]
    if not status.queue_answers:
        says = f"The queue of trainings does not answer: {status.queue}. Events are handled all the same. "
        return "warn", "Running, not learning.", says + " ".join(learning)
    if seen.trainers == 0:
        return "warn", "Running, not learning.", "No trainer is running: refinery trainer. " + " ".join(learning)
    if status.dead_letters:
        (reason, number), others = seen.dead_reasons[0], len(seen.dead_reasons) - 1
        which = f"all {reason}" if not others else f"{number:,} of them {reason}, and {others} other reasons"
        since = f"the oldest for {span(age_s(seen.dead_since))}" if seen.dead_since else ""
        letters = f"{status.dead_letters:,} events wait in the dead letters, {since}: {which}."
        return "warn", "Running and learning.", " ".join([letters, *learning])
    if status.monitoring and status.monitoring.alarms:
        return "warn", "Running and learning.", " ".join([_alarm_words(status.monitoring), *learning])
    return "good", "Running and learning.", " ".join(learning)


def _alarm_words(found: Monitoring) -> str:
    first, others = found.alarms[0], len(found.alarms) - 1
    more = f" and {others} more" if others else ""
    return f"Monitoring raised {first['name'].replace('_', ' ')}{more}: {first['why']}."


def _champion_words(status: Status) -> str:
    if status.champion is None:
        return "No model serves yet: scores say cold_start."
    if status.proven:
        return "The champion is proven."
    standing = status.standing
    why = IN_WORDS[standing.not_proven] if standing is not None and standing.not_proven is not None else "not judged"
    ended = f", its proof ended on {standing.since[:10]}" if standing is not None and standing.since else ""
    return f"The champion is not proven ({why}){ended}: it serves provisionally, and its scores move nothing."


def _training_words(seen: Overview) -> str:
    last, waits = seen.status.last_training, f"{', '.join(training_waits_for(seen.status))}."
    waits = waits[0].upper() + waits[1:]
    if seen.training == "started":
        return "A training is running."
    if last is None:
        return waits
    if last.status == "failed":
        return f"The last training failed: {last.reason}. {waits}"
    if last.too_few_samples:
        return f"The last job found too few samples to train on. {waits}"
    return f"The last candidate: {last.words}."
