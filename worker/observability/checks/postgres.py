"""What `refinery doctor` looks at of a store in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from trading_system.ml_refinement.storage import SchemaMismatch, StoreError
from worker.errors import ConfigurationError
from worker.installation import open_archive, open_store, refuse_other_shards
from worker.observability.findings import Finding
from worker.observability.printable import counted
from worker.settings.schema import Settings

_PART = "store"
_SYNCHRONOUS = "docs/scale.md, What is promised"


def look_at_postgres(settings: Settings) -> Iterator[Finding]:
    """Whether the server can be trusted with commits, and the store is sound as far as its schema cannot see to it."""
    where = settings.masked_store
    try:
        with closing(open_store(settings, read_only=True)) as store:
            store.initialize()
            counts, facts = store.counts(), store.engine.facts()
            refuse_other_shards(settings, store)
        with closing(open_archive(settings, read_only=True)) as archive:
            missing = archive.missing() if settings.archive.enabled else []
    except SchemaMismatch as error:
        yield Finding(_PART, "bad", str(error), "run what the line names, once, with this release")
        return
    except ConfigurationError as error:
        yield Finding(_PART, "bad", str(error), "set REFINERY_SHARDS to the store's number in every process")
        return
    except StoreError as error:
        yield Finding(_PART, "bad", str(error), "see that the server runs, and REFINERY_STORE_URL is right")
        return
    assert facts is not None  # noqa: S101 - it is PostgreSQL
    size = f"{facts.size_bytes / 1e9:,.1f} GB"
    says = f"{where}, PostgreSQL {facts.version}: {counted(counts.signals, 'signal')}, {counts.labelled:,} labelled"
    yield Finding(_PART, "ok", f"{says}, {size}")
    if facts.standby:
        yield Finding(_PART, "bad", f"{where} is a standby, which takes no writes", "name the primary")
    if not facts.fsync or not facts.full_page_writes:
        off = "fsync" if not facts.fsync else "full_page_writes"
        yield Finding(_PART, "bad", f"{off} is off: a crash loses or breaks the store", f"set {off} = on")
    if facts.synchronous_commit == "off":
        yield Finding(
            _PART, "bad", "synchronous_commit is off: a crash loses acknowledged events", "set synchronous_commit = on"
        )
    if not facts.synchronous_standbys:
        has = counted(facts.standbys, "standby") if facts.standbys else "no standby"
        says = f"no commit waits for a standby ({has}): the loss of the host loses what it acknowledged last"
        yield Finding(_PART, "warn", says, _SYNCHRONOUS)
    if facts.orphans:
        says = f"{facts.orphans:,} rows refer to nothing: somebody else wrote or removed rows"
        yield Finding(_PART, "bad", says, "restore from the server's own backup")
    if missing:
        says = f"the archive has no {', '.join(missing)}: these events go into the default partition"
        yield Finding("archive", "warn", says, "refinery store upgrade, as the role that owns the tables")
    if counts.dead_letters_open:
        wait = counted(counts.dead_letters_open, "dead letter waits", "dead letters wait")
        yield Finding(_PART, "warn", wait, "refinery dead-letters list")
