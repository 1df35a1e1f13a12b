"""The composition root: everything a process needs, built once from the settings and passed on as parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version

import redis
from loguru import logger
from redis.backoff import NoBackoff
from redis.retry import Retry

from trading_system.ml_refinement.features.feature_registry import UnknownFeatureError
from trading_system.ml_refinement.features.feature_store import FeatureStore
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.scoring import Scorer
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase, StoreUnavailable
from trading_system.ml_refinement.storage.times import utc_now
from worker.backups import refuse_half_restored
from worker.claims import ClaimKeeper
from worker.consumer import Consumer, Handler
from worker.dead_letters import DeadLetters
from worker.errors import ConfigurationError, TransientError
from worker.events import Limits
from worker.handlers import BatchHandler, Handled
from worker.market_data import DirectorySource
from worker.masking import masker
from worker.patience import Patience
from worker.rebuilding import Rebuild
from worker.settings import Settings
from worker.streams import GroupReader

#: Above the longest blocking read, so that a silent server and an empty stream are told apart.
_SOCKET_TIMEOUT_S = 10.0
#: A batch that is in hand for so many times the take-over time is given up to whoever claims it: its worker hangs.
_MOST_CLAIM_TIMES = 20


def release() -> str:
    """The installed version of this distribution."""
    return version("signal-refinery")


def set_up_logging(settings: Settings) -> None:
    """Send logs to stderr, for people or as JSON lines, without credentials."""
    mask = masker(settings.redis_url)

    def write(text: str) -> None:
        sys.stderr.write(mask(text))

    logger.remove()
    if settings.log_format == "json":
        logger.add(write, level=settings.log_level, serialize=True, backtrace=False, diagnose=False)
        return
    line = "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}"
    in_colour = sys.stderr.isatty()
    logger.add(write, level=settings.log_level, format=line, colorize=in_colour, backtrace=False, diagnose=False)


def connect(url: str) -> redis.Redis:
    """A client that neither retries nor decodes: for everything that writes to or reads from streams."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_SOCKET_TIMEOUT_S,
        protocol=2,
    )


def open_store(settings: Settings, *, read_only: bool = False) -> FeatureDatabase:
    """The store of this installation, with its schema up to date unless it is only read.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    refuse_half_restored(settings)
    store = FeatureDatabase(str(settings.store_path), read_only=read_only)
    if not read_only:
        store.initialize()
    return store


@contextmanager
def worker_consumer(
    settings: Settings,
    client: redis.Redis,
    *,
    after_batch: Callable[[FeatureDatabase, Handled], None],
    observed: Callable[[Handler], Handler] = lambda handler: handler,
    patience: Patience | None = None,
) -> Iterator[Consumer]:
    """A consumer with everything behind it; the store is closed when the block ends.

    Args:
        settings: of this process.
        client: from `connect`.
        after_batch: called with the open store after every settled batch and every idle read.
        observed: given the handler, the one to use in its place.
        patience: for store, archive or disk that cannot be used just now; None: that is an error.

    Raises:
        StoreUnavailable: the store or the archive cannot be opened now, and there was no patience.
        StopRequested: told to stop before they could be.
        StoreDamaged, SchemaMismatch, ConfigurationError: waiting would not help.
    """
    reader = _group_reader(settings, client)
    claim_idle_s = settings.claim_idle_ms / 1000
    with ExitStack() as stack:

        def opened() -> tuple[FeatureDatabase, BatchHandler]:
            with ExitStack() as opening:
                store = open_store(settings)
                opening.callback(store.close)
                archive = (
                    opening.enter_context(EventArchive(settings.archive_path)) if settings.archive.enabled else None
                )
                handler = _batch_handler(settings, store, archive)
                stack.enter_context(opening.pop_all())
            return store, handler

        store, handler = opened() if patience is None else patience.until_possible(opened)
        claims = ClaimKeeper(reader, every_s=claim_idle_s / 4, at_most_s=claim_idle_s * _MOST_CLAIM_TIMES)
        yield Consumer(
            reader,
            observed(handler),
            max_tries=settings.max_deliveries,
            retry_delay_s=1.0,
            claim_every_s=claim_idle_s / 4,
            after_batch=lambda handled: _look_after(after_batch, store, handled),
            claims=stack.enter_context(claims),
        )


def _look_after(
    after_batch: Callable[[FeatureDatabase, Handled], None], store: FeatureDatabase, handled: Handled
) -> None:
    """A store that cannot be read between two batches is waited for, like one that cannot take a batch."""
    try:
        after_batch(store, handled)
    except StoreUnavailable as error:
        raise TransientError(f"the store cannot be read: {error}") from error


def _batch_handler(settings: Settings, store: FeatureDatabase, archive: EventArchive | None) -> BatchHandler:
    ml = settings.to_ml_config()
    pipeline = feature_pipeline(settings)
    _describe(store, pipeline)
    registry = ModelRegistry(model_dir=str(settings.models_dir), db=store)
    return BatchHandler(
        store=store,
        archive=archive,
        pipeline=pipeline,
        scorer=Scorer(store, registry, ml, pipeline, clock=utc_now),
        market_data=_market_data(settings),
        dead_letters=DeadLetters(store, version=release()),
        kinds={
            settings.streams.signals_created: "signal.created",
            settings.streams.trades_closed: "trade.closed",
        },
        limits=Limits(max_bytes=settings.max_event_bytes, max_future_s=settings.max_future_s),
        clock=utc_now,
    )


@contextmanager
def feature_rebuild(settings: Settings) -> Iterator[Rebuild]:
    """A rebuild of this installation's vectors; its files are closed when the block ends.

    Raises:
        StoreError: a file cannot be opened now, or is damaged.
    """
    pipeline = feature_pipeline(settings)
    with ExitStack() as stack:
        store = open_store(settings)
        stack.callback(store.close)
        there = settings.archive_path.exists()
        archive = stack.enter_context(EventArchive(settings.archive_path)) if there else None
        _describe(store, pipeline)
        yield Rebuild(
            store=store,
            archive=archive,
            pipeline=pipeline,
            market_data=_market_data(settings),
            stream=settings.streams.signals_created,
            batch_size=settings.batch_size,
        )


def feature_pipeline(settings: Settings) -> FeaturePipeline:
    """The features that these settings choose.

    Raises:
        ConfigurationError: they choose one that does not exist, or none.
    """
    try:
        return FeaturePipeline(settings.ml.features.to_config())
    except (ValueError, UnknownFeatureError) as error:
        raise ConfigurationError(f"the features cannot be computed: {error}") from error


def _market_data(settings: Settings) -> DirectorySource:
    return DirectorySource(
        settings.market_data_dir,
        benchmark_symbols=settings.benchmark_symbols,
        max_bar_age_days=settings.market_max_bar_age_days,
    )


def _describe(store: FeatureDatabase, pipeline: FeaturePipeline) -> None:
    """What each feature means goes into the store; a store that is busy now gets it at the next start."""
    try:
        FeatureStore(store, pipeline).describe()
    except StoreUnavailable as error:
        logger.warning("the definitions of features were not entered: {}", error)


def _group_reader(settings: Settings, client: redis.Redis) -> GroupReader:
    return GroupReader(
        client,
        streams=(settings.streams.signals_created, settings.streams.trades_closed),
        group=settings.streams.group,
        consumer=settings.consumer,
        batch_size=settings.batch_size,
        block_ms=settings.block_ms,
        claim_idle_ms=settings.claim_idle_ms,
        scores=settings.streams.signals_scored,
        scores_maxlen=settings.scored_maxlen or None,
    )
