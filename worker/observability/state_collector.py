"""What a scrape looks up in store and server: gauges, read when they are asked for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import redis
from loguru import logger
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.monitoring.drift_windows import feature_drift
from trading_system.ml_refinement.monitoring.served import out_of_distribution_share, read_served, served_figures
from trading_system.ml_refinement.standing import NotProven
from trading_system.ml_refinement.storage import FeatureDatabase, StoreError, StoreMoved
from worker.consumer.failover import failovers
from worker.consumer.primary_watch import primary_changes
from worker.errors import RefineryError, TransientError
from worker.installation import feature_pipeline, open_store, release, streams_of
from worker.market_data.hosts import count_different
from worker.observability.status import Notified, Status, read_status
from worker.redis_server.connection import connect
from worker.settings.schema import Settings
from worker.streams.errors import translated
from worker.streams.state import is_replica, readers_of

_FIGURES_EVERY_S = 60.0
#: How a training can end, by verdict and serving: told as 0 before the first, so that the first is an increase.
_ENDINGS = (
    ("promote", "proven"),
    ("promote", "no"),
    ("hold", "provisional"),
    ("hold", "no"),
    ("reject", "provisional"),
    ("reject", "no"),
    ("too_few_samples", ""),
    ("failed", ""),
    ("running", ""),
)


class StateCollector(Collector):
    """What store and server say when it is asked for.

    Args:
        settings: of this process.
        url: address of the server.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._opened: FeatureDatabase | None = None
        self._client = connect(url)
        self._figures: list[Metric] = []
        self._figures_at = -math.inf
        self._turn = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """One scrape. What does not answer is told as not being up, and its figures are left out."""
        with self._turn:
            yield _gauge("refinery_build_info", "1, with the release.", 1, version=release())
            redis_up = self.redis_answers()
            yield _gauge("refinery_redis_up", "1 when Redis answers and takes writes.", redis_up)
            if redis_up:
                yield from self._scores()
            try:
                families = list(self._of_store(self._client if redis_up else None))
                up = True
            except (StoreError, RefineryError, redis.RedisError) as error:
                logger.debug("a scrape without the store: {}", error)
                families, up = [], False
            yield _gauge("refinery_store_up", "1 when the store can be read.", up)
            yield from families

    def redis_answers(self) -> bool:
        """Whether the server answers now, and is one that can be written to."""
        try:
            with translated():
                return not is_replica(self._client)
        except TransientError as error:
            logger.debug("a scrape without Redis: {}", error)
            self._client.connection_pool.disconnect(inuse_connections=False)
            return False

    def store_answers(self) -> bool:
        """Whether the store can be read now."""
        try:
            self._store.counts()
        except (StoreError, RefineryError):
            return False
        return True

    def close(self) -> None:
        """Close the connection and the client."""
        if self._opened is not None:
            self._opened.close()
        self._client.close()

    @property
    def _store(self) -> FeatureDatabase:
        """Opened when it is first asked for: at the start of a process it may not be there, or be half restored."""
        if self._opened is not None:
            try:
                self._opened.check_in_place()
            except StoreMoved:  # a restore, or somebody else, has put another one there
                self._opened.close()
                self._opened = None
        if self._opened is None:
            self._opened = open_store(self._settings, read_only=True)
        return self._opened

    def _of_store(self, client: redis.Redis | None) -> Iterator[Metric]:
        status = read_status(self._settings, self._store, client)
        yield from _streams(status)
        yield from _amounts(status)
        yield from _learning(status, self._settings.training_timeout_s)
        sizes = {"archive": _file_bytes(self._settings.archive_path)} | self._store.engine.sizes()
        for name, size in sizes.items():
            yield _gauge(f"refinery_{name}_bytes", "Size on disk.", size)
        if client is not None:
            streams = streams_of(self._settings).inputs
            text = "Times that another server held the store than before."
            times = failovers(client, streams, self._settings.streams.group)
            yield CounterMetricFamily("refinery_store_failovers", text, value=times)
            text = "Times that a replica of Redis was seen to take over from the primary."
            yield CounterMetricFamily("refinery_redis_failovers", text, value=self._redis_failovers(client))
            text = "Different contents of the workers' market-data directories; 0 where hosts share no store."
            shared = self._settings.store_url is not None
            different = count_different(self._settings, client) if shared else 0
            yield _gauge("refinery_market_data_contents", text, different)
        yield from self._dead_letters()
        yield from self._trainings()
        yield from self._champion(status)
        yield from _alarms(status)
        yield from _notified(status.notifications)
        if time.monotonic() - self._figures_at > _FIGURES_EVERY_S:
            self._figures = list(_live_figures(self._settings, self._store))
            self._figures_at = time.monotonic()
        yield from self._figures

    def _redis_failovers(self, client: redis.Redis) -> int:
        """Those of all shards where each may have a server of its own."""
        streams, group = streams_of(self._settings), self._settings.streams.group
        parts = [one.inputs for one in streams.by_shard] if self._settings.on_cluster else [streams.inputs]
        return sum(primary_changes(client, part, group) for part in parts)

    def _scores(self) -> Iterator[Metric]:
        """Of the stream of scores, which does not depend on the store."""
        try:
            length, readers = readers_of(self._client, streams_of(self._settings).scored)
        except TransientError as error:
            logger.debug("a scrape without the stream of scores: {}", error)
            return
        yield _gauge("refinery_scores_length", "Entries in the stream of scores.", length)
        yield _gauge("refinery_scores_readers", "Consumer groups that read the scores.", len(readers))
        lag = GaugeMetricFamily(
            "refinery_scores_reader_lag", "Scores not yet given to the group; NaN when not known.", labels=["group"]
        )
        pending = GaugeMetricFamily(
            "refinery_scores_reader_pending", "Scores given to the group and not acknowledged.", labels=["group"]
        )
        for reader in readers:
            lag.add_metric([reader.group], math.nan if reader.lag is None else reader.lag)
            pending.add_metric([reader.group], reader.pending)
        yield lag
        yield pending

    def _dead_letters(self) -> Iterator[Metric]:
        reasons = self._store.dead_letters.open_by_reason()
        by_reason = GaugeMetricFamily("refinery_dead_letters_open", "Open dead letters.", labels=["reason"])
        for one in reasons:
            by_reason.add_metric([one.reason], one.letters)
        yield by_reason
        oldest = min((one.first_seen for one in reasons), default=None)
        yield _gauge("refinery_dead_letter_oldest_seconds", "Age of the oldest open dead letter.", _age_s(oldest) or 0)

    def _trainings(self) -> Iterator[Metric]:
        text = "Trainings by what the gate said, and how the candidate serves."
        family = GaugeMetricFamily("refinery_trainings", text, labels=["verdict", "serves"])
        for labels, number in (dict.fromkeys(_ENDINGS, 0) | self._store.runs.count_by_ending()).items():
            family.add_metric(labels, number)
        yield family

    def _champion(self, status: Status) -> Iterator[Metric]:
        champion = self._store.models.active(ModelType.SIGNAL_QUALITY)
        yield _gauge("refinery_champion_proven", "1 when the model that serves is proven.", status.proven)
        now = NotProven.NO_MODEL if status.standing is None else status.standing.not_proven
        family = GaugeMetricFamily("refinery_not_proven", "1 for why nothing is proven.", labels=["reason"])
        for reason in NotProven:
            family.add_metric([reason], reason is now)
        yield family
        age = _age_s(champion.metadata.created_at if champion else None)
        yield _gauge("refinery_champion_age_seconds", "Since the model that serves was trained.", age)


def _gauge(name: str, text: str, value: float | None, **labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    if value is not None:
        family.add_metric(list(labels.values()), float(value))
    return family


def _streams(status: Status) -> Iterator[Metric]:
    families = {
        name: GaugeMetricFamily(f"refinery_stream_{name}", text, labels=["stream"])
        for name, text in (
            ("length", "Entries in the stream."),
            ("pending", "Entries delivered and not acknowledged."),
            ("lag", "Entries not yet delivered; NaN when the server cannot tell."),
            ("lag_known", "1 when the server can tell the lag."),
            ("ahead_seconds", "How far the last id is ahead of our clock, where it is more than an hour."),
        )
    }
    gone = CounterMetricFamily(
        "refinery_stream_unread_gone", "Entries that others removed before a worker had read them.", labels=["stream"]
    )
    for stream in status.streams:
        families["length"].add_metric([stream.name], stream.length)
        families["pending"].add_metric([stream.name], stream.pending)
        families["lag"].add_metric([stream.name], math.nan if stream.lag is None else stream.lag)
        families["lag_known"].add_metric([stream.name], stream.lag is not None)
        families["ahead_seconds"].add_metric([stream.name], stream.ahead_s)
        gone.add_metric([stream.name], stream.unread_gone)
    yield from families.values()
    yield gone


def _amounts(status: Status) -> Iterator[Metric]:
    yield _gauge("refinery_signals_stored", "Signals in the store.", status.signals)
    yield _gauge("refinery_signals_labelled", "Signals with an outcome.", status.labelled)
    yield _gauge("refinery_signals_incomplete", "Signals some of whose features failed.", status.incomplete)
    yield _gauge("refinery_outcomes_waiting", "Outcomes whose signal has not come.", status.waiting_outcomes)
    yield _gauge("refinery_duplicates_stored", "Entries that said again what was known.", status.duplicates)
    age = _age_s(status.newest_label_at)
    yield _gauge("refinery_newest_label_age_seconds", "Since the trade that was labelled last closed.", age)


def _learning(status: Status, training_timeout_s: float) -> Iterator[Metric]:
    """What the next training waits for."""
    yield _gauge("refinery_labels_since_training", "New labels since the last training.", status.new_labels)
    help_text = "New labels that make a training due."
    yield _gauge("refinery_labels_for_training", help_text, status.min_new_labels)
    yield _gauge("refinery_samples", "Samples that the next training will find, as far as is known.", status.samples)
    yield _gauge("refinery_samples_for_model", "With fewer samples a job trains nothing.", status.min_samples)
    last = status.last_training
    # One that has outlived its time limit is dead, and no trainer has noticed.
    running = last is not None and last.status == "running" and (_age_s(last.started_at) or 0) < training_timeout_s
    yield _gauge("refinery_training_due", "1 when a training is due and none runs.", bool(status.due) and not running)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _alarms(status: Status) -> Iterator[Metric]:
    family = GaugeMetricFamily("refinery_alarm", "1 for each alarm of the last monitoring.", labels=["alarm"])
    for alarm in status.monitoring.alarms if status.monitoring else ():
        family.add_metric([alarm["name"]], 1)
    yield family
    yield _gauge("refinery_champion_fits", "0 when it was fitted on other features.", status.champion_fits)


def _notified(found: Notified | None) -> Iterator[Metric]:
    if found is None:
        return
    yield _gauge("refinery_notifications_waiting", "Notifications that wait to be sent.", found.waiting)
    age = _age_s(found.oldest_waiting_at) or 0
    yield _gauge("refinery_notification_oldest_seconds", "Age of the oldest that waits; 0 without any.", age)
    text = "What came of notifications, ever."
    family = CounterMetricFamily("refinery_notifications", text, labels=["result"])
    for result in ("sent", "failed", "given_up", "dropped"):
        family.add_metric([result], getattr(found, result))
    yield family


def _live_figures(settings: Settings, store: FeatureDatabase) -> Iterator[Metric]:
    train_window_days = settings.ml.training.train_window_days
    figures = served_figures(read_served(store, train_window_days=train_window_days))
    for name, text in (
        ("rows", "Labelled signals that the live figures are about."),
        ("log_loss", "Log loss of what was served."),
        ("base_rate_log_loss", "Log loss of always saying the base rate, on the same signals."),
        ("auc", "Area under the ROC curve of what was served."),
        ("calibration_error", "Expected calibration error of what was served."),
        ("calibration_error_by_chance", "What perfectly calibrated scores would show by chance."),
        ("lift", "Mean R of the fifth scored highest minus the fifth scored lowest."),
    ):
        value = getattr(figures, name)
        yield _gauge(f"refinery_live_{name}", text, None if math.isnan(value) else value)
    pipeline = feature_pipeline(settings)
    names, version = pipeline.names, pipeline.feature_version
    drift = feature_drift(store, train_window_days=train_window_days, names=names, feature_version=version)
    yield _gauge("refinery_drift_features", "Features compared with the champion's training rows.", len(drift))
    yield _gauge("refinery_drift_features_drifted", "Those beyond their limit.", sum(d.drifted for d in drift))
    share = out_of_distribution_share(store)
    yield _gauge("refinery_out_of_distribution_ratio", "Share of the newest signals unlike the training rows.", share)


def _age_s(text: str | None) -> float | None:
    return None if text is None else (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
