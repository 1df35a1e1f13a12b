"""The state of an installation at one moment, as `refinery status` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.standing import Standing, read_standing
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import utc_now
from trading_system.ml_refinement.training.verdicts import run_in_words
from worker.errors import TransientError
from worker.installation import other_owner, streams_of
from worker.retraining.history import training_history
from worker.retraining.policy import due, retrain_rule
from worker.settings.schema import Settings

if TYPE_CHECKING:
    import redis

    from worker.observability.unknown_fields import UnknownField
    from worker.streams.state import StreamState


@dataclass(frozen=True, slots=True)
class Training:
    """How the last training ended, or that it runs."""

    run_id: str
    status: str
    started_at: str
    completed_at: str | None
    model_id: str | None
    verdict: str | None
    reason: str | None
    #: How its candidate serves: `proven`, `provisional` or `no`.
    serves: str | None = None
    #: All that in words, as people read it.
    words: str = ""

    @property
    def too_few_samples(self) -> bool:
        """Whether it found too few samples and trained nothing."""
        return self.status == "completed" and self.verdict == "hold" and self.model_id is None


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What monitoring found when it last looked."""

    at: str
    alarms: tuple[Mapping[str, str], ...]
    features: int
    features_drifted: int
    #: Log loss that was served, over the base rate's; None without enough outcomes.
    served_excess: float | None
    requested: str | None


@dataclass(frozen=True, slots=True)
class Notified:
    """Whether somebody is told. `to` is the masked address, None where none is set, and then nothing waits."""

    to: str | None
    waiting: int
    oldest_waiting_at: str | None
    #: What the last try came to, where what waits was tried in vain.
    error: str | None
    #: How many were sent, tries that failed, were given up, and were dropped unsent, ever.
    sent: int
    failed: int
    given_up: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Status:
    """Everything on one screen. What Redis does not tell, or the store does not hold, is None, never 0."""

    redis: str
    streams: tuple[StreamState, ...]
    pending: int | None
    #: Entries not yet delivered, over both input streams.
    lag: int | None
    signals: int
    labelled: int
    predictions: int
    outcomes: int
    waiting_outcomes: int
    incomplete: int
    duplicates: int
    dead_letters: int
    new_labels: int
    #: So many new labels make a training due.
    min_new_labels: int
    newest_label_at: str | None
    champion: str | None
    proven: bool
    champion_since: str | None
    last_training: Training | None
    monitoring: Monitoring | None = None
    #: False where the champion was fitted on other features than these settings compute: then it scores nothing.
    champion_fits: bool = True
    #: Rows of another program that the store keeps aside.
    quarantined: int = 0
    #: Samples that the next training will find, as far as is known; with fewer than the second it trains nothing.
    samples: int = 0
    min_samples: int = 0
    #: Why a training is due; None when none is.
    due: str | None = None
    #: Who pinned the champion: then no training takes its place.
    pinned_by: str | None = None
    #: Whether the champion is proven, since when, and why not or why no longer.
    standing: Standing | None = None
    #: False where the settings turn retraining off, and nothing is ever due.
    retraining: bool = True
    #: The server of the queue of trainings, and what is wrong with it; None where it is that of the streams.
    queue: str | None = None
    queue_answers: bool = True
    #: What is wrong where another installation handles the streams, or the store that did is gone.
    other_owner: str | None = None
    #: What workers of this machine wait for, and handle nothing meanwhile.
    waits_for: tuple[str, ...] = ()
    #: Who is told of what happens, and what waits to be told.
    notifications: Notified | None = None
    #: Fields that producers send and nobody reads, of the newest events; whoever shows a status looks for them.
    unknown_fields: tuple[UnknownField, ...] = ()

    def to_json(self) -> Mapping[str, Any]:
        """Plain values, for `--json`, under the names that were published first."""
        fields = asdict(self)
        return {("labels_for_retraining" if name == "min_new_labels" else name): fields[name] for name in fields}


def training_waits_for(state: Status) -> tuple[str, ...]:
    """What has to come before the next job, and before there can be a model, in words."""
    if not state.retraining:
        return ("retraining is turned off",)
    labels = f"{state.new_labels:,} of {state.min_new_labels:,} new labels"
    words = [f"the next job is due, with {labels}" if state.due else f"{labels} until the next job"]
    if state.samples < state.min_samples:
        which = "first" if state.champion is None else "next"
        words.append(f"{state.samples:,} of {state.min_samples:,} samples until the {which} model")
    return tuple(words)


def read_status(settings: Settings, store: FeatureDatabase, client: redis.Redis | None) -> Status:
    """Look at the store and, when it answers, at Redis. Takes the same time whatever the size of the store."""
    states, trouble = _streams(settings, client)
    queue_trouble = silence_of_queue(settings)
    counts = store.counts()
    champion = store.models.active(ModelType.SIGNAL_QUALITY)
    last = store.runs.last(ModelType.SIGNAL_QUALITY)
    history = training_history(store, ModelType.SIGNAL_QUALITY)
    lags = [state.lag for state in states or ()]
    return Status(
        redis=f"{settings.masked_redis_url} ({trouble})" if trouble else settings.masked_redis_url,
        streams=states or (),
        pending=None if states is None else sum(state.pending for state in states),
        lag=None if states is None or None in lags else sum(lag for lag in lags if lag is not None),
        signals=counts.signals,
        labelled=counts.labelled,
        predictions=counts.predictions,
        outcomes=counts.outcomes,
        waiting_outcomes=counts.waiting_outcomes,
        incomplete=counts.incomplete,
        duplicates=counts.duplicates,
        dead_letters=counts.dead_letters_open,
        new_labels=history.new_labels,
        min_new_labels=settings.ml.min_new_samples_for_retrain,
        newest_label_at=counts.newest_label,
        champion=champion.model_id if champion else None,
        proven=champion.proven if champion else False,
        champion_since=champion.metadata.deployed_at if champion else None,
        pinned_by=champion.pinned_by if champion else None,
        last_training=None
        if last is None
        else Training(
            last.run_id,
            last.status,
            last.started_at,
            last.completed_at,
            last.model_id,
            last.verdict,
            last.reason,
            last.serves,
            run_in_words(last),
        ),
        standing=read_standing(store.models, ModelType.SIGNAL_QUALITY),
        monitoring=read_monitoring(store),
        quarantined=counts.quarantined,
        champion_fits=champion is None or champion.feature_version == _feature_version(settings),
        samples=history.samples,
        min_samples=settings.ml.training.min_training_samples,
        due=due(retrain_rule(settings), history, now=utc_now()),
        retraining=settings.ml.enabled,
        queue=f"{settings.masked_queue_url} ({queue_trouble})" if queue_trouble else settings.masked_queue_url,
        queue_answers=not queue_trouble,
        other_owner=_other_owner(settings, store, client),
        notifications=read_notified(settings, store),
    )


def silence_of_queue(settings: Settings) -> str:
    """What is wrong with the server of the queue of trainings, where it has one of its own; empty where it answers."""
    if settings.queue_url is None:
        return ""
    # Only now: whoever has one server does without another client.
    from worker.redis_server.connection import connect
    from worker.streams.errors import translated

    try:
        with translated(), connect(settings.queue_url) as client:
            client.ping()
    except TransientError as error:
        return str(error).splitlines()[0]
    return ""


def _other_owner(settings: Settings, store: FeatureDatabase, client: redis.Redis | None) -> str | None:
    if client is None:
        return None
    try:
        return other_owner(settings, client, store if settings.store_is_there else None)
    except TransientError:
        return None


def _feature_version(settings: Settings) -> str:
    from worker.installation import feature_pipeline  # takes long to load, and without a champion nobody asks

    return feature_pipeline(settings).feature_version


def read_notified(settings: Settings, store: FeatureDatabase) -> Notified:
    """Whether somebody is told, and what waits to be."""
    counts = store.notifications.counts()
    if settings.notify.url is None:
        return Notified(None, 0, None, None, **counts)
    waiting = store.notifications.waiting()
    return Notified(settings.notify.masked_url, waiting.number, waiting.oldest_at, waiting.error, **counts)


def read_monitoring(store: FeatureDatabase) -> Monitoring | None:
    """The newest report of monitoring; None before the first."""
    last = store.monitoring.last()
    if last is None:
        return None
    figures = last.figures
    drifted = int(figures.get("features_drifted", 0))
    excess = figures.get("served_excess")
    return Monitoring(last.at, tuple(last.alarms), int(figures.get("features", 0)), drifted, excess, last.requested)


def _streams(settings: Settings, client: redis.Redis | None) -> tuple[tuple[StreamState, ...] | None, str]:
    """The input streams, or None and why not; also what is wrong with a server that answers."""
    if client is None:
        return None, "does not answer"
    # With the client of Redis, which whoever has one has loaded.
    from worker.streams.state import is_replica, stream_states

    try:
        states = tuple(stream_states(client, streams_of(settings).inputs, settings.streams.group))
        return states, "a replica, which takes no writes" if is_replica(client) else ""
    except TransientError as error:
        return None, str(error).splitlines()[0]
