"""The replay driver: plays a timeline through the real streams, in lockstep with the worker and its retrainings.

After each moment it waits until the worker has acknowledged everything, and until a retraining that became due has
ended. No event is published that the world had not seen when the serving model was trained, so every score comes from
a model that knew only the past.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from trading_system.simulation.position_tracker import OutcomeEvent
from trading_system.simulation.signal_generator import SignalEvent
from trading_system.simulation.timeline import Moment
from worker.demo.played import Played, Scored
from worker.errors import RefineryError
from worker.observability.status import Status
from worker.streams.entries import append_many
from worker.streams.errors import translated
from worker.streams.shards import Streams
from worker.streams.state import stream_states

#: How often the worker is looked at: a moment takes it a few milliseconds, a training takes seconds.
_DRAIN_POLL_S, _TRAINING_POLL_S = 0.002, 0.05
_READ_AT_ONCE = 1000


class ReplayStalled(RefineryError):
    """The worker or the trainer did not do its part in time."""


@dataclass(frozen=True, slots=True)
class ReplayTimeouts:
    """How long the replay waits for the others, in seconds, before it gives up; their own start included."""

    drain_s: float = 300
    training_start_s: float = 300
    training_s: float = 600


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the replay is. `phase` is "replaying", "queued" or "training"; `status` is the newest one looked at."""

    at: str
    moment: int
    moments: int
    published: int
    scored: int
    phase: str
    status: Status


class MarketReplay:
    """Plays a timeline once.

    Args:
        client: a client that neither retries nor decodes.
        timeline: what is played, in order of time.
        streams: of the installation.
        group: the worker's.
        look: the worker's status now.
        is_due: whether a retraining has to follow from a status.
        tend: called before each moment and again and again while waiting, so that a process that ended is started
            again; what it raises ends the replay.
        on_progress: told after every moment, and now and then while a training runs.
        timeouts: how long the others may take.
    """

    def __init__(
        self,
        client: redis.Redis,
        timeline: Sequence[Moment],
        *,
        streams: Streams,
        group: str,
        look: Callable[[], Status],
        is_due: Callable[[Status], bool],
        tend: Callable[[], None] = lambda: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        timeouts: ReplayTimeouts = ReplayTimeouts(),
    ) -> None:
        self._client = client
        self._timeline = timeline
        self._streams = streams
        self._group = group
        self._look = look
        self._is_due = is_due
        self._tend = tend
        self._on_progress = on_progress
        self._timeouts = timeouts
        self._signals: list[SignalEvent] = []
        self._outcomes: list[OutcomeEvent] = []
        self._scored: list[Scored] = []
        self._last_read = dict.fromkeys(streams.scored, b"0-0")

    def run(self) -> Played:
        """Play everything.

        Raises:
            ReplayStalled: the worker or the trainer did not do its part in time.
            TransientError: the server is away.
        """
        started = time.monotonic()
        status = self._look()
        for number, moment in enumerate(self._timeline, start=1):
            self._tend()
            self._publish(moment)
            self._wait_for_worker(moment.instant)
            self._read_scores()
            if moment.outcomes:
                status = self._wait_for_training(number, moment.instant)
            self._tell(number, moment.instant, "replaying", status)
        return Played(self._signals, self._outcomes, self._scored, time.monotonic() - started)

    def _publish(self, moment: Moment) -> None:
        """What ended at a bar's close was known before what was decided on it."""
        of_signal = self._streams.of_signal
        outcomes = [(of_signal(one["signal_id"]).trades_closed, orjson.dumps(one)) for one in moment.outcomes]
        signals = [(of_signal(one["signal_id"]).signals_created, orjson.dumps(one)) for one in moment.signals]
        append_many(self._client, outcomes + signals)
        self._outcomes += moment.outcomes
        self._signals += moment.signals

    def _wait_for_worker(self, at: str) -> None:
        """Until nothing is pending and nothing undelivered on any input stream."""
        deadline = time.monotonic() + self._timeouts.drain_s
        while True:
            states = stream_states(self._client, self._streams.inputs, self._group)
            if all(state.pending == 0 and state.lag == 0 for state in states):
                return
            if time.monotonic() > deadline:
                left = ", ".join(f"{state.name} {state.pending} pending, lag {state.lag}" for state in states)
                raise ReplayStalled(
                    f"the worker has not handled the events of {at[:10]} in {self._timeouts.drain_s:g} s: {left}"
                )
            self._tend()
            time.sleep(_DRAIN_POLL_S)

    def _wait_for_training(self, number: int, at: str) -> Status:
        """Until no training is due and none runs; the status then, which has the champion that serves next."""
        started = time.monotonic()
        while True:
            status = self._look()
            running = status.last_training is not None and status.last_training.status == "running"
            if not running and not self._is_due(status):
                return status
            self._tell(number, at, "training" if running else "queued", status)
            waited_s = time.monotonic() - started
            if not running and waited_s > self._timeouts.training_start_s:
                raise ReplayStalled(f"a retraining is due since {at[:10]} and was not begun in {waited_s:.0f} s")
            if waited_s > self._timeouts.training_start_s + self._timeouts.training_s:
                raise ReplayStalled(f"the retraining of {at[:10]} has not ended in {waited_s:.0f} s")
            self._tend()
            time.sleep(_TRAINING_POLL_S)

    def _read_scores(self) -> None:
        """All scores published since the last read: the worker publishes them together with its acknowledgement."""
        for stream in self._streams.scored:
            while rows := self._scores_of(stream):
                self._scored += [Scored.from_bytes(fields[b"data"]) for _, fields in rows]
                self._last_read[stream] = rows[-1][0]

    def _scores_of(self, stream: str) -> list[Any]:
        """The next of a stream."""
        with translated():
            rows: Any = self._client.xrange(stream, min=b"(" + self._last_read[stream], count=_READ_AT_ONCE)
        return list(rows)

    def _tell(self, number: int, at: str, phase: str, status: Status) -> None:
        published = len(self._signals) + len(self._outcomes)
        self._on_progress(Progress(at, number, len(self._timeline), published, len(self._scored), phase, status))
