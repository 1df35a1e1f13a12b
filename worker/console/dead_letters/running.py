"""Replays and discards as they go on: begun by a request, done by a thread, looked at by the pages after it."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

from loguru import logger

from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase, Filter, StoreError
from worker.console.queries import ConsoleQueries
from worker.dead_letters import DeadLetters, Pace, ReplayReport
from worker.errors import RefineryError
from worker.installation import open_store, refuse_other_owner, release, streams_of

#: So many go on at once.
MOST_RUNNING: Final = 3
_MOST_REMEMBERED = 100
_AT_ONCE = 200


@dataclass(slots=True)
class RunningAction:
    """What an operator began: how many it is about, and what became of them so far."""

    name: str
    verb: Literal["replay", "discard"]
    total: int
    report: ReplayReport = field(default_factory=ReplayReport)
    discarded: int = 0
    failed: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to look into."""
        return not (self.failed or self.report.stopped or self.report.died)

    @property
    def words(self) -> str:
        """What became of it, in a sentence or two."""
        said = self._discard_words() if self.verb == "discard" else self._replay_words()
        return f"{said} {self.failed}" if self.failed else said

    def _discard_words(self) -> str:
        going_on = "" if self.over.is_set() else ", going on"
        return f"{self.discarded:,} of {self.total:,} discarded{going_on}."

    def _replay_words(self) -> str:
        report = self.report
        sent, waiting = len(report.sent), len(report.sent) - report.handled
        parts = [f"{report.handled - report.died:,} applied"]
        if report.died:
            parts.append(f"{report.died:,} died again")
        if waiting:
            parts.append(f"{waiting:,} not handled yet")
        said = f"{sent:,} sent: {', '.join(parts)}."
        if report.skipped:
            said += f" {len(report.skipped):,} passed over: not open any more, or no bytes to send."
        if not self.over.is_set():
            return f"{said} Going on: {self.total:,} were chosen."
        if report.stopped:
            return f"{said} Stopped: {report.stopped}."
        return f"{said} Is a worker running?" if waiting else said


Work = Callable[[RunningAction, FeatureDatabase, DeadLetters], None]


class RunningActions:
    """The actions of this console, the newest by name; they end with it, and what they did is in the audit.

    Args:
        queries: of the application.
    """

    def __init__(self, queries: ConsoleQueries) -> None:
        self._queries = queries
        self._turn = threading.Lock()
        self._known: OrderedDict[str, RunningAction] = OrderedDict()

    def get(self, name: str) -> RunningAction | None:
        """The action, None where this console does not remember it."""
        return self._known.get(name)

    def replay(self, numbers: list[int] | Filter, *, total: int, actor: str) -> RunningAction:
        """Begin to send dead letters to their streams again.

        Raises:
            RefineryError: too many actions go on, or the streams are another installation's.
        """
        refuse_other_owner(self._queries.settings, self._queries.client)

        def do(action: RunningAction, _: FeatureDatabase, letters: DeadLetters) -> None:
            def told(report: ReplayReport) -> None:
                action.report = report

            rows = _chosen(letters, numbers, payloads=True)
            streams = streams_of(self._queries.settings)
            action.report = letters.replay(
                self._queries.client, rows, actor=actor, streams=streams, pace=Pace(), told=told
            )

        return self._begin(RunningAction(secrets.token_urlsafe(8), "replay", total), do)

    def discard(self, numbers: list[int] | Filter, reason: str, *, total: int, actor: str) -> RunningAction:
        """Begin to put dead letters away.

        Raises:
            RefineryError: too many actions go on.
        """

        def do(action: RunningAction, store: FeatureDatabase, letters: DeadLetters) -> None:
            chosen = _chosen(letters, numbers, payloads=False)
            while rows := list(islice(chosen, _AT_ONCE)):
                with store.atomic():
                    done = letters.discard(rows, reason, actor=actor)
                action.discarded += len(done)

        return self._begin(RunningAction(secrets.token_urlsafe(8), "discard", total), do)

    def _begin(self, action: RunningAction, do: Work) -> RunningAction:
        with self._turn:
            if sum(not each.over.is_set() for each in self._known.values()) >= MOST_RUNNING:
                raise RefineryError(f"{MOST_RUNNING} actions go on already: wait until one of them is over")
            self._known[action.name] = action
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        threading.Thread(target=self._run, args=(action, do), name=f"action-{action.name}", daemon=True).start()
        return action

    def _run(self, action: RunningAction, do: Work) -> None:
        try:
            with open_store(self._queries.settings) as store:
                do(action, store, DeadLetters(store, version=release()))
        except (RefineryError, StoreError) as error:
            action.failed = f"It ended early: {error}."
        except Exception as error:  # noqa: BLE001 - the page says that it ended, whatever ended it
            logger.opt(exception=error).error("an action on dead letters failed")
            action.failed = "It ended early; the console's log says why."
        finally:
            action.over.set()


def _chosen(letters: DeadLetters, chosen: list[int] | Filter, *, payloads: bool) -> Iterator[DeadLetterRow]:
    if isinstance(chosen, Filter):
        return letters.chosen([], chosen, payloads=payloads)
    return letters.chosen(chosen, None, payloads=payloads)
