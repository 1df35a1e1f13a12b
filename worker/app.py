"""The composition root: everything a process needs, built once from the settings and passed on as parts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import redis
from loguru import logger

from trading_system.ml_refinement.features.feature_store import FeatureStore
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.scoring import Scorer
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase, StoreUnavailable
from trading_system.ml_refinement.storage.times import utc_now
from worker.consumer.batch_handler import BatchHandler
from worker.consumer.batch_result import BatchResult
from worker.consumer.failover import FailoverWatch
from worker.consumer.loop import Consumer, Handler
from worker.consumer.passed_over import PassedOverWatch
from worker.consumer.primary_watch import PrimaryWatch
from worker.consumer.reconciliation import Reconciliation
from worker.consumer.retry_budget import RetryBudget
from worker.consumer.store_errors import translated_store_errors
from worker.dead_letters import DeadLetters
from worker.errors import AnotherInstallation, ConfigurationError, CopyAtWork, TransientError
from worker.events.decoding import Limits
from worker.installation import (
    existing_store,
    feature_pipeline,
    open_archive,
    open_store,
    ownership,
    refuse_other_owner,
    release,
    streams_of,
)
from worker.maintenance.rebuild import Rebuild
from worker.market_data.directory import market_data
from worker.settings.schema import Settings
from worker.state_dir import make_private
from worker.streams.claim_heartbeat import ClaimHeartbeat
from worker.streams.entries import Entry
from worker.streams.losses import PassedOverRecord, StreamWatch
from worker.streams.ownership import Ownership
from worker.streams.reader import GroupReader
from worker.streams.sharded_reader import MOST_BLOCK_MS, Reader, ShardedReader, home_shard
from worker.streams.shards import ShardStreams
from worker.supervision.backoff import StartRetry
from worker.supervision.slots import others_at_work

#: A batch that is in hand for so many times the take-over time is given up to whoever claims it: its worker hangs.
_MOST_CLAIM_TIMES = 20


@contextmanager
def worker_consumer(
    settings: Settings,
    client: redis.Redis,
    *,
    after_batch: Callable[[FeatureDatabase, BatchResult], None],
    observed: Callable[[Handler], Handler] = lambda handler: handler,
    retry: StartRetry | None = None,
    on_pause: Callable[[str], None] = lambda _: None,
) -> Iterator[Consumer]:
    """A consumer with everything behind it; the store is closed when the block ends.

    Args:
        settings: of this process.
        client: from `connect`.
        after_batch: called with the open store after every settled batch and every idle read.
        observed: given the handler, the one to use in its place.
        retry: for store, archive or disk that cannot be used just now; None: that is an error.
        on_pause: told the cause whenever our own side is at fault.

    Raises:
        StoreUnavailable: the store or the archive cannot be opened now, and there was no `retry`.
        StopRequested: told to stop before they could be.
        StoreDamaged, SchemaMismatch, ConfigurationError: waiting would not help; the last also where another
            installation handles the streams, or the store that handled them is gone.
    """
    reader = _group_reader(settings, client)
    streams = streams_of(settings)
    watch = StreamWatch(client, streams.inputs, settings.streams.group)
    primary = PrimaryWatch(client, streams.inputs, settings.streams.group)
    claim_idle_s = settings.claim_idle_ms / 1000
    with ExitStack() as stack:

        def opened() -> tuple[
            FeatureDatabase, BatchHandler, Callable[[], list[Entry]], PassedOverWatch, Ownership, FailoverWatch
        ]:
            with ExitStack() as opening:
                if not settings.store_is_there:
                    # Before an empty one is made in its place.
                    refuse_other_owner(settings, client)
                store = open_store(settings)
                opening.callback(store.close)
                make_private(settings.state_dir / "workers")
                ours = _taken(settings, client, store)
                opening.callback(_let_go, settings, ours)
                archive = opening.enter_context(open_archive(settings)) if settings.archive.enabled else None
                handler = _batch_handler(settings, store, archive)
                struck_off = _struck_off(settings, store, archive, reader)
                record = PassedOverRecord(client, settings.streams.group)
                passed_over = PassedOverWatch(store, archive, reader, record, streams.kinds)
                failover = FailoverWatch(store, client, streams.inputs, settings.streams.group)
                stack.enter_context(opening.pop_all())
            return store, handler, struck_off, passed_over, ours, failover

        made = opened() if retry is None else retry.until_possible(opened)
        store, handler, struck_off, passed_over, ours, failover = made
        looks = (primary.look, failover.look, ours.check_if_due, watch.look_if_due, passed_over.look_if_due)
        heartbeat = ClaimHeartbeat(reader, every_s=claim_idle_s / 4, at_most_s=claim_idle_s * _MOST_CLAIM_TIMES)
        yield Consumer(
            reader,
            observed(handler),
            RetryBudget(store),
            max_tries=settings.max_deliveries,
            retry_delay_s=1.0,
            claim_every_s=claim_idle_s / 4,
            after_batch=lambda result: _look_after(after_batch, store, looks, result),
            heartbeat=stack.enter_context(heartbeat),
            struck_off=struck_off,
            admit=lambda: _admit(ours, primary, watch, failover),
            on_pause=on_pause,
        )


def _struck_off(
    settings: Settings, store: FeatureDatabase, archive: EventArchive | None, reader: Reader
) -> Callable[[], list[Entry]]:
    """How entries that nobody delivers again are found; without an archive nobody can know of them."""
    if archive is None:
        return list
    reconciliation = Reconciliation(store, archive, reader, streams_of(settings).kinds)
    reconciliation.begin()
    return lambda: reader.of_one_shard(reconciliation.struck_off(most=settings.batch_size))


def _look_after(
    after_batch: Callable[[FeatureDatabase, BatchResult], None],
    store: FeatureDatabase,
    looks: Sequence[Callable[[], None]],
    result: BatchResult,
) -> None:
    """A store that cannot be read between two batches is waited for, like one that cannot take a batch."""
    with translated_store_errors(use="read"):
        store.check_in_place()
        for look in looks:
            look()
        after_batch(store, result)


def _admit(ours: Ownership, primary: PrimaryWatch, watch: StreamWatch, failover: FailoverWatch) -> None:
    """Look at the streams before anything is read: reading on hides from some servers' counts what is gone."""
    ours.check()
    primary.look_anew()
    watch.look()
    failover.look()


def _taken(settings: Settings, client: redis.Redis, store: FeatureDatabase) -> Ownership:
    """The streams as this installation's. One that handles them is not waited for at the start; a copy may end.

    Where the server is away, the loop asks before it reads.
    """
    ours = ownership(settings, client, store)
    try:
        ours.check()
    except AnotherInstallation as error:
        raise ConfigurationError(str(error)) from error
    except CopyAtWork:
        raise
    except TransientError as error:
        logger.debug("whose the streams are is asked again: {}", error)
    return ours


def _let_go(settings: Settings, ours: Ownership) -> None:
    with suppress(TransientError, redis.RedisError, OSError):
        # Of a store that hosts share nobody sees who else works: its place runs out by itself.
        if settings.store_url is None and not others_at_work(settings):
            ours.release()


def _batch_handler(settings: Settings, store: FeatureDatabase, archive: EventArchive | None) -> BatchHandler:
    ml = settings.to_ml_config()
    pipeline = feature_pipeline(settings)
    _describe(store, pipeline)
    registry = ModelRegistry.from_config(ml, store)
    registry.take_over()
    return BatchHandler(
        store=store,
        archive=archive,
        pipeline=pipeline,
        scorer=Scorer(store, registry, ml, pipeline, clock=utc_now),
        market_data=market_data(settings, wanted=pipeline.reads_bars),
        dead_letters=DeadLetters(store, version=release(), largest_event=settings.max_event_bytes),
        kinds=streams_of(settings).kinds,
        limits=Limits.from_settings(settings),
        clock=utc_now,
        shards=settings.shards,
    )


@contextmanager
def feature_rebuild(settings: Settings) -> Iterator[Rebuild]:
    """A rebuild of this installation's vectors; its files are closed when the block ends.

    Raises:
        StoreError: a file cannot be opened now, or is damaged.
    """
    pipeline = feature_pipeline(settings)
    with ExitStack() as stack:
        store = existing_store(settings)
        stack.callback(store.close)
        archive = stack.enter_context(open_archive(settings)) if settings.archive_is_there else None
        _describe(store, pipeline)
        yield Rebuild(
            store=store,
            archive=archive,
            pipeline=pipeline,
            market_data=market_data(settings, wanted=pipeline.reads_bars),
            stream=settings.streams.signals_created,
            batch_size=settings.batch_size,
        )


def _describe(store: FeatureDatabase, pipeline: FeaturePipeline) -> None:
    """What each feature means goes into the store; a store that is busy now gets it at the next start."""
    try:
        FeatureStore(store, pipeline).describe()
    except StoreUnavailable as error:
        logger.warning("the definitions of features were not entered: {}", error)


def _group_reader(settings: Settings, client: redis.Redis) -> Reader:
    shards = streams_of(settings).by_shard
    readers = [_reader_of(streams, settings, client, of=len(shards)) for streams in shards]
    if len(readers) == 1:
        return readers[0]
    return ShardedReader(readers, home=home_shard(socket.gethostname(), settings.consumer_slot, len(readers)))


def _reader_of(streams: ShardStreams, settings: Settings, client: redis.Redis, *, of: int) -> GroupReader:
    return GroupReader(
        client,
        streams=streams.inputs,
        group=settings.streams.group,
        consumer=settings.consumer,
        batch_size=settings.batch_size,
        block_ms=settings.block_ms if of == 1 else min(settings.block_ms, MOST_BLOCK_MS),
        claim_idle_ms=settings.claim_idle_ms,
        max_event_bytes=settings.max_event_bytes,
        scores=streams.signals_scored,
        scores_maxlen=settings.scored_maxlen or None,
    )
