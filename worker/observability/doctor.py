"""What is wrong with an installation, and what to do about it: each check looks, none changes anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import redis

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage import SchemaMismatch, StoreError
from trading_system.ml_refinement.storage.quarantine import QuarantineGroup
from trading_system.ml_refinement.storage.times import Clock, utc_now
from worker.errors import RefineryError, TransientError
from worker.installation import (
    check_features,
    check_recipe,
    feature_pipeline,
    idle_settings,
    open_store,
    other_owner,
    streams_of,
)
from worker.observability.checks.cluster import look_at_cluster
from worker.observability.checks.data import look_at_benchmarks, look_at_hosts, look_at_market_data, look_at_provided
from worker.observability.checks.machine import look_at_clock, look_at_disk, look_at_state_dir
from worker.observability.checks.postgres import look_at_postgres
from worker.observability.findings import Finding, Verdict
from worker.observability.printable import counted
from worker.observability.status import read_notified, read_status, silence_of_queue, training_waits_for
from worker.observability.waiting_workers import waiting_workers
from worker.redis_client import SentinelAnswer, ask_each
from worker.redis_server.binary import find_server
from worker.redis_server.connection import connect, server_if_there
from worker.redis_server.embedded import answers, socket_path
from worker.settings.messages import config_file, service_links
from worker.settings.schema import Settings
from worker.streams.losses import stream_troubles
from worker.streams.preflight import check_server, settings_of_each
from worker.streams.state import stream_states

_REDIS_ADVICE = "start it, or set REFINERY_REDIS_URL"
_SENTINEL_ADVICE = "start it, correct the address, or give it sentinel_username and sentinel_password"
_LEAST_SENTINELS = 3
_ASIDE_ADVICE = "docs/operations.md says how to read them"
_SCHEMA_ADVICE = "refinery status or a worker brings an older one up to date; a newer one needs a newer release"
_NOTIFY_ADVICE = "refinery notify --test sends one and says what came back"
#: What waits longer without a try has no sender.
_UNSENT = timedelta(minutes=2)
_SHOWN_LINKS = 5
#: So many of the newest trainings are looked at.
_TRAININGS = 20


def examine(settings: Settings, *, clock: Clock = utc_now) -> list[Finding]:
    """Look at everything; what fails unexpectedly is itself a finding.

    Args:
        settings: of the installation.
        clock: of this machine, which is compared with the server's.
    """
    file = config_file()
    where = f"state in {settings.state_dir}, Redis {settings.masked_redis_url}"
    findings = [Finding("settings", "ok", f"{where}, {f'file {Path(file).absolute()}' if file else 'no file'}")]
    checks: Sequence[tuple[str, Callable[[Settings], Iterator[Finding]]]] = (
        ("settings", _learning),
        ("features", look_at_provided),
        ("redis", _redis),
        ("sentinels", _sentinels),
        ("cluster", look_at_cluster),
        ("queue", _queue),
        ("installation", _ownership),
        ("worker", _waiting),
        ("clock", partial(look_at_clock, clock=clock)),
        ("state directory", look_at_state_dir),
        ("disk", look_at_disk),
        ("store", _store),
        ("models", _models),
        ("trainings", _trainings),
        ("market data", look_at_market_data),
        ("market data", look_at_hosts),
        ("market data", look_at_benchmarks),
        ("console", _console),
        ("notifications", _notifications),
    )
    for part, check in checks:
        try:
            findings += check(settings)
        except (RefineryError, StoreError, redis.RedisError, OSError) as error:
            findings.append(Finding(part, "bad", str(error), "the line says what does not work"))
    return findings


def _learning(settings: Settings) -> Iterator[Finding]:
    try:
        check_recipe(settings)
    except RefineryError as error:
        yield Finding("settings", "bad", str(error), "worker and trainer do not start: correct it")
    try:
        check_features(settings)
    except RefineryError as error:
        yield Finding("settings", "bad", str(error), "worker and trainer do not start: correct it")
    for line in idle_settings(settings):
        yield Finding("settings", "warn", line, "unset it, or choose what it acts for")
    if links := service_links(os.environ):
        shown = ", ".join([*links[:_SHOWN_LINKS], *(["..."] if len(links) > _SHOWN_LINKS else [])])
        yield Finding("settings", "ok", f"{len(links)} that Kubernetes adds for services are ignored: {shown}")


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url
    if url is None:
        socket = socket_path(settings.valkey_dir)
        if not answers(socket):
            binary = find_server()
            yield Finding("redis", "ok", f"embedded, not running now; {binary.name} is there", "refinery up starts it")
            return
        url = f"unix://{socket}"
    streams = streams_of(settings)
    with closing(connect(url)) as client:
        try:
            client.ping()
            check_server(client, [*streams.inputs, *streams.scored])
            states = stream_states(client, streams.inputs, settings.streams.group)
        except (redis.RedisError, RefineryError) as error:
            yield Finding("redis", "bad", f"{settings.masked_redis_url}: {error}", _REDIS_ADVICE)
            return
        durable = all(said.get("appendonly") == "yes" for said in settings_of_each(client, "appendonly"))
    lag = sum(state.lag or 0 for state in states)
    pending = sum(state.pending for state in states)
    yield Finding("redis", "ok", f"{settings.masked_redis_url} answers; {lag:,} waiting, {pending:,} pending")
    for says, advice in stream_troubles(states, now=utc_now()):
        yield Finding("redis", "bad", says, advice)
    if not durable:
        yield Finding("redis", "warn", "appendonly is not yes: a crash loses events", "CONFIG SET appendonly yes")


def _sentinels(settings: Settings) -> Iterator[Finding]:
    """Whether sentinels answer, and whether a failover is possible, of each address of sentinels."""
    for url in sorted({settings.redis_url or "", settings.queue_url or ""}):
        said = ask_each(url)
        silent = [answer for answer in said if answer.trouble]
        for answer in silent:
            yield Finding("sentinels", "warn", f"{answer.sentinel}: {answer.trouble}", _SENTINEL_ADVICE)
        if len(silent) < len(said):
            yield _of_sentinels([answer for answer in said if not answer.trouble], of=len(said))


def _of_sentinels(told: list[SentinelAnswer], *, of: int) -> Finding:
    primaries = " or ".join(sorted({answer.primary for answer in told}))
    replicas, know = min(answer.replicas for answer in told), min(answer.sentinels for answer in told)
    says = f"{len(told)} of {of} answer; the primary is {primaries}, with {counted(replicas, 'replica')}"
    if " or " in primaries:
        return Finding("sentinels", "warn", says, "a failover is under way, or they are cut off from each other")
    if replicas and know >= _LEAST_SENTINELS:
        return Finding("sentinels", "ok", says)
    advice = f"a failover needs a replica, and {_LEAST_SENTINELS} sentinels that know each other"
    return Finding("sentinels", "warn", f"{says}, watched by {counted(know, 'sentinel')}", advice)


def _queue(settings: Settings) -> Iterator[Finding]:
    """The server of the queue of trainings, where it has one of its own."""
    if settings.queue_url is None:
        return
    if silence := silence_of_queue(settings):
        says = f"{settings.masked_queue_url}: {silence}; events are handled, and trainings wait"
        yield Finding("queue", "bad", says, "start it, or correct REFINERY_QUEUE_URL")
        return
    with closing(connect(settings.queue_url)) as client:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    if policy not in (None, "noeviction"):
        says = f"maxmemory-policy is {policy}: jobs may vanish"
        yield Finding("queue", "warn", says, "CONFIG SET maxmemory-policy noeviction")
    yield Finding("queue", "ok", f"{settings.masked_queue_url} answers")


def _ownership(settings: Settings) -> Iterator[Finding]:
    """Whether the streams are handled by this store."""
    with ExitStack() as stack:
        client = stack.enter_context(server_if_there(settings))
        if client is None:
            return
        store = None
        if settings.store_is_there:
            store = stack.enter_context(closing(open_store(settings, read_only=True)))
            try:
                store.initialize()
            except SchemaMismatch:
                return  # the store's own finding says so
        try:
            wrong = other_owner(settings, client, store)
        except TransientError:
            return  # the server's own finding says so
    if wrong is not None:
        yield Finding("installation", "bad", wrong, "docs/operations.md, Which installation handles the streams")


def _waiting(settings: Settings) -> Iterator[Finding]:
    for slot, cause in waiting_workers(settings):
        yield Finding(
            "worker", "bad", f"worker {slot} handles nothing, and nothing is lost: {cause}", "see to that cause"
        )


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.store_url is not None:
        yield from look_at_postgres(settings)
        return
    path = settings.store_path
    if not path.exists():
        yield Finding("store", "ok", "none yet; the first worker makes it")
        return
    try:
        with closing(open_store(settings, read_only=True)) as store:
            store.initialize()
            damage = store.engine.damage()
            counts = store.counts()
            groups = store.quarantine.groups()
    except SchemaMismatch as error:
        yield Finding("store", "bad", str(error), _SCHEMA_ADVICE)
        return
    except StoreError as error:
        yield Finding("store", "bad", str(error), "refinery restore a backup")
        return
    if damage is not None:
        yield Finding("store", "bad", f"{path} is damaged: {damage}", "refinery restore a backup")
        return
    yield Finding("store", "ok", f"{counted(counts.signals, 'signal')}, {counts.labelled:,} labelled, sound")
    mode = path.stat().st_mode & 0o077
    if mode or path.parent.stat().st_mode & 0o077:
        yield Finding("store", "warn", f"{path} or its directory is open to others", f"chmod 700 {path.parent}")
    if counts.quarantined:
        yield _kept_aside(groups)
    if counts.dead_letters_open:
        wait = counted(counts.dead_letters_open, "dead letter waits", "dead letters wait")
        yield Finding("store", "warn", wait, "refinery dead-letters list")


def _kept_aside(groups: Sequence[QuarantineGroup]) -> Finding:
    """Rows of another program: what was taken out is worth a look, what was put right in its place is only told."""
    removed = [group for group in groups if group.action == "removed"]
    shown = removed or list(groups)
    says = "; ".join(f"{group.rows:,} of {group.table} {group.action}: {group.reason}" for group in shown)
    verdict: Verdict = "warn" if removed else "ok"
    return Finding("store", verdict, f"rows of another program are kept in the table quarantine: {says}", _ASIDE_ADVICE)


def _models(settings: Settings) -> Iterator[Finding]:
    if not settings.store_is_there:
        yield Finding("models", "ok", "none yet")
        return
    with closing(open_store(settings, read_only=True)) as store:
        try:
            store.initialize()
        except SchemaMismatch:
            return  # the store's own finding says so
        row = store.models.active(ModelType.SIGNAL_QUALITY)
        if row is None:
            yield Finding("models", "ok", "none serves yet; scores say cold_start")
            return
        try:
            ModelRegistry.from_config(settings.to_ml_config(), store).load(row.model_id)
        except (OSError, ModelFileRefused) as error:
            yield Finding("models", "bad", f"{row.model_id}: {error}", "refinery models rollback, or restore its file")
            return
    version = feature_pipeline(settings).feature_version
    if row.feature_version not in (None, version):
        says = f"{row.model_id} was fitted on {row.feature_version}, and the settings make {version}"
        yield Finding("models", "bad", says, "put the REFINERY_ML__FEATURES__* settings back, or refinery retrain")
        return
    role = "proven" if row.proven else "provisional"
    yield Finding("models", "ok", f"{row.model_id} serves, {role}; its bytes are sound")


def _trainings(settings: Settings) -> Iterator[Finding]:
    if not settings.store_is_there:
        yield Finding("trainings", "ok", "none yet")
        return
    with closing(open_store(settings, read_only=True)) as store:
        waits = ", ".join(training_waits_for(read_status(settings, store, None)))
        over = [run for run in store.runs.recent(_TRAININGS) if run.status != "running"]
    failed = [run for run in over if run.status == "failed"]
    says = f"{len(over)} looked at, {len(failed)} failed" if over else "none yet"
    if not failed:
        yield Finding("trainings", "ok", f"{says}; {waits}")
        return
    last = failed[0]
    told = f"{says}, the last at {(last.completed_at or last.started_at)[:19]}: {last.reason or 'without a word'}"
    if over[0].status != "failed":
        yield Finding("trainings", "ok", f"{told}; those since have not")
        return
    yield Finding("trainings", "warn", told, "what served before serves on; docs/operations.md, No new model for weeks")


def _console(settings: Settings) -> Iterator[Finding]:
    place, named = f"{settings.console_host}:{settings.console_port}", len(settings.console_operators)
    if settings.console_port == 0:
        yield Finding("console", "ok", "turned off")
    elif named:
        yield Finding("console", "ok", f"{place}, {named} named operator{'' if named == 1 else 's'}")
    elif settings.console_operator_password is None:
        yield Finding("console", "ok", f"{place}, without a password")
    else:
        yield Finding("console", "ok", f"{place}, with a password")


def _notifications(settings: Settings) -> Iterator[Finding]:
    if settings.notify.url is None:
        yield Finding("notifications", "ok", "nobody is told; docs/notifications.md says how somebody is")
        return
    to = settings.notify.masked_url
    if not settings.store_is_there:
        yield Finding("notifications", "ok", f"go to {to}; none yet", _NOTIFY_ADVICE)
        return
    with closing(open_store(settings, read_only=True)) as store:
        try:
            store.initialize()
        except SchemaMismatch:
            return  # the store's own finding says so
        found = read_notified(settings, store)
    if found.error is not None:
        since = (found.oldest_waiting_at or "")[:19]
        yield Finding(
            "notifications",
            "bad",
            f"{counted(found.waiting, 'waits', 'wait')} since {since}: {to}: {found.error}",
            _NOTIFY_ADVICE,
        )
        return
    if found.waiting and (age := utc_now() - datetime.fromisoformat(found.oldest_waiting_at or "")) > _UNSENT:
        says = f"{found.waiting:,} wait, the oldest for {int(age.total_seconds()):,} s, and nobody tries to send them"
        yield Finding("notifications", "bad", says, "worker and trainer send them: see that one runs")
        return
    unsigned = "" if settings.notify.secret is not None else "; unsigned, since REFINERY_NOTIFY__SECRET is not set"
    lost = f"; {found.given_up:,} given up, {found.dropped:,} dropped" if found.given_up or found.dropped else ""
    verdict: Verdict = "warn" if lost else "ok"
    yield Finding("notifications", verdict, f"{found.sent:,} sent to {to}, {found.waiting:,} wait{lost}{unsigned}")
