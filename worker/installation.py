"""The parts of an installation that its settings name: its store, its features, its release.

Kept apart from the composition root, so that looking at a store does not load what learning needs.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from trading_system.ml_refinement.config_effects import EFFECTS, idle
from trading_system.ml_refinement.recipe_parameters import wrong_parameters
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase
from worker.errors import ConfigurationError, NoStore
from worker.settings.messages import variable
from worker.settings.schema import ARCHIVE_FILE, Settings, is_given
from worker.state_dir import place_of, refuse_half_restored
from worker.streams.shards import ShardStreams, Streams

if TYPE_CHECKING:
    import redis

    from trading_system.ml_refinement.features.pipeline import FeaturePipeline
    from trading_system.ml_refinement.storage.shared.copying import CopiedTable
    from worker.streams.ownership import Ownership


def release() -> str:
    """The installed version of this distribution."""
    from importlib.metadata import version  # with what reads mail, for which few have a use

    return version("signal-refinery")


def streams_of(settings: Settings) -> Streams:
    """The streams of this installation."""
    named = settings.streams
    names = ShardStreams(named.signals_created, named.trades_closed, named.signals_scored)
    return Streams(names, settings.shards, tagged=settings.on_cluster)


def open_store(settings: Settings, *, read_only: bool = False) -> FeatureDatabase:
    """The store of this installation, with its schema up to date unless it is only read.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted, or it was made with another number of shards.
    """
    refuse_half_restored(settings)
    store = FeatureDatabase.from_config(settings.to_ml_config(), read_only=read_only)
    if not read_only:
        store.initialize()
        try:
            refuse_other_shards(settings, store)
        except BaseException:
            store.close()
            raise
    return store


def refuse_other_shards(settings: Settings, store: FeatureDatabase) -> None:
    """Refuse a store whose streams are others than those that the settings name.

    Raises:
        ConfigurationError: it was made with another number of shards.
        StoreUnavailable: it cannot be asked now.
    """
    if (made_with := store.engine.shards()) != settings.shards:
        raise ConfigurationError(
            f"REFINERY_SHARDS is {settings.shards}, and the store was made with {made_with}: that is fixed when it is "
            "made; docs/scale.md, Shards, says how to go over to another number"
        )


def open_to_look(settings: Settings) -> FeatureDatabase:
    """The store for pages that only look: a standby, where the settings name one.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    if settings.store_read_url is None:
        return open_store(settings, read_only=True)
    return FeatureDatabase(settings.store_read_url, read_only=True)


def upgrade_store(settings: Settings) -> list[int]:
    """Make the store's schema or bring it up to date, whichever engine holds it; PostgreSQL's steps that were applied.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreRefused: PostgreSQL's role may not make what is needed.
        SchemaMismatch: a newer release made it.
        ConfigurationError: a restore of it was interrupted, or it was made with another number of shards.
    """
    refuse_half_restored(settings)
    with closing(FeatureDatabase.from_config(settings.to_ml_config())) as store:
        steps = store.upgrade(shards=settings.shards)
        refuse_other_shards(settings, store)
        return steps


def copy_a_store(
    source: str, target: str, *, shards: int = 1, told: Callable[[CopiedTable], None]
) -> list[CopiedTable]:
    """Copy a store at a path or an address into another one, its archive with it, and compare them; see `copy_store`
    and `copy_archive`. The archive of a file lies beside it, that of an address in the same schema.

    A schema that is made by this has so many shards.

    Raises:
        NoStore: there is none at the source's path.
        ConfigurationError: an address cannot be used.
        StoreError: one of them cannot be opened, the target is another installation's, or they do not say the same.
    """
    from trading_system.ml_refinement.storage.shared.archives import copy_archive  # for the one command
    from trading_system.ml_refinement.storage.shared.copying import copy_store  # as above

    def archive() -> list[CopiedTable]:
        kept = _archive_of(source)
        if isinstance(kept, Path) and not kept.exists():
            return []
        with EventArchive(kept) as mine, EventArchive(_archive_of(target)) as theirs:
            return copy_archive(mine, theirs, told=told)

    if "://" not in source and not Path(source).exists():
        raise NoStore(f"no store at {source}")
    try:
        with closing(FeatureDatabase(source)) as here, closing(FeatureDatabase(target)) as there:
            here.initialize()
            there.upgrade(shards=shards)
            return copy_store(here, there, told=told, archive=archive)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _archive_of(place: str) -> str | Path:
    return place if "://" in place else Path(place).with_name(ARCHIVE_FILE)


def add_archive_file(settings: Settings, file: Path, *, told: Callable[[int], None]) -> int:
    """Add the events of an archive's file to this installation's archive; how many were new. See `add_archive`.

    Raises:
        NoStore: there is no such file.
        StoreError: one of the two cannot be opened, or is damaged.
    """
    from trading_system.ml_refinement.storage.shared.archives import add_archive  # for the one command

    if not file.exists():
        raise NoStore(f"no archive at {file}")
    with closing(EventArchive(file, read_only=True)) as source, open_archive(settings) as target:
        source.initialize()
        return add_archive(source, target, told=told)


def make_archive_ahead(settings: Settings) -> list[str]:
    """Make the partitions that the next months' events go to, where the archive has any; those that were made.

    Raises:
        StoreRefused: the role may not make them. Nothing is lost: the default partition takes the events.
        StoreError: they cannot be made now.
    """
    with open_archive(settings) as archive:
        return archive.make_ahead()


def existing_store(settings: Settings) -> FeatureDatabase:
    """The store as `open_store` opens it, for whoever has nothing to begin one with.

    Raises:
        NoStore: there is none at its path.
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    refuse_half_restored(settings)
    if missing := no_store(settings):
        raise NoStore(missing)
    return open_store(settings)


def no_store(settings: Settings) -> str:
    """That there is no store, in words; empty where there is one."""
    if settings.store_is_there:
        return ""
    return f"no store at {settings.store_path}: nothing was handled with this REFINERY_STATE_DIR yet"


def open_for_looking(settings: Settings) -> FeatureDatabase:
    """The store as `open_store` opens it; where there is none, an empty one that is kept nowhere.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    if settings.store_is_there:
        return open_store(settings)
    refuse_half_restored(settings)
    store = FeatureDatabase(":memory:")
    store.initialize()
    return store


def ownership(settings: Settings, client: redis.Redis, store: FeatureDatabase) -> Ownership:
    """What the installation of this store handles on a server."""
    from worker.streams.ownership import Owner, Ownership  # with the client of Redis

    if settings.store_url is None:
        me = Owner(store.installation_id(), socket.gethostname(), str(settings.state_dir))
        place = place_of(settings.state_dir)
    else:
        me = Owner(store.installation_id(), "PostgreSQL", settings.masked_store)
        place = store.engine.place_id()
    return Ownership(client, streams_of(settings).inputs, settings.streams.group, me=me, place=place)


def other_owner(settings: Settings, client: redis.Redis, store: FeatureDatabase | None) -> str | None:
    """What is wrong where another installation than this store's handles the streams; None where none does.

    Args:
        settings: of this process.
        client: of the server.
        store: of this installation; None: there is none yet.

    Raises:
        TransientError: Redis is away.
    """
    from worker.streams.ownership import owner_of  # with the client of Redis

    for stream in streams_of(settings).inputs:
        owner = owner_of(client, stream, settings.streams.group)
        if owner is None or (store is not None and store.installation_id() == owner.installation):
            continue
        if store is None:
            return (
                f"there is no store in {settings.state_dir}, and {stream} was handled by one in {owner}: put it back "
                "or restore a backup, or set REFINERY_STATE_DIR; `refinery adopt` begins anew with an empty one"
            )
        return (
            f"{stream} is handled by another installation, in {owner}, and not by that of {settings.state_dir}: "
            "compare REFINERY_STATE_DIR and REFINERY_REDIS_URL; `refinery adopt` has this one handle it"
        )
    return None


def refuse_other_owner(settings: Settings, client: redis.Redis) -> None:
    """Refuse to work beside another installation, or in the place of a store that is gone. Makes no store.

    Raises:
        ConfigurationError: another installation handles the streams, or the store of this one is not there.
        TransientError: Redis is away.
        StoreError: the store cannot be opened now.
    """
    with ExitStack() as stack:
        there = settings.store_is_there
        store = stack.enter_context(open_store(settings)) if there else None
        if (wrong := other_owner(settings, client, store)) is not None:
            raise ConfigurationError(wrong)


def open_copy(path: Path) -> FeatureDatabase:
    """A copy of a store, as a backup holds one: only read, and as its schema is."""
    return FeatureDatabase(path, read_only=True)


def open_archive(settings: Settings, *, read_only: bool = False) -> EventArchive:
    """The archive of received events of this installation: a file, or in the store where that is in PostgreSQL.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no archive, or a damaged one.
    """
    return EventArchive(settings.archive_place, read_only=read_only)


def open_archive_to_look(settings: Settings) -> EventArchive:
    """The archive for pages that only look: that of a standby, where the settings name one.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no archive, or a damaged one.
    """
    if settings.store_read_url is None:
        return open_archive(settings, read_only=True)
    return EventArchive(settings.store_read_url, read_only=True)


def check_recipe(settings: Settings) -> None:
    """Refuse hyperparameters that every training would fail with.

    Raises:
        ConfigurationError: the recipe does not know one, or cannot use its value.
    """
    training = settings.ml.training
    wrong = wrong_parameters(training.model_type, training.hyperparameters)
    if wrong:
        raise ConfigurationError(f"{variable(('ml', 'training', 'hyperparameters'))}: {wrong}")


def check_features(settings: Settings) -> None:
    """Refuse features that no process could compute; only names can be wrong, and without any no arrays are loaded.

    Raises:
        ConfigurationError: a name is of nothing, or is taken.
    """
    features = settings.ml.features
    if features.custom_features or features.provided:
        feature_pipeline(settings)


def idle_settings(settings: Settings) -> list[str]:
    """The settings of learning that were given a value and do nothing beside the others, each with where it would."""
    given = [name for name in EFFECTS if is_given("ml", *name.split("."))]
    return [
        f"{variable(('ml', *name.split('.')))} does nothing here; it acts: {acts}"
        for name, acts in idle(settings.ml, given).items()
    ]


def feature_pipeline(settings: Settings) -> FeaturePipeline:
    """The features that these settings choose.

    Raises:
        ConfigurationError: they choose one that does not exist, or none, or provide one that there is already.
    """
    # Here, because they load numpy, and whoever only opens a store does without.
    from trading_system.ml_refinement.features.feature_registry import TakenNameError, UnknownFeatureError
    from trading_system.ml_refinement.features.pipeline import FeaturePipeline

    try:
        return FeaturePipeline(settings.ml.features)
    except TakenNameError as error:
        raise ConfigurationError(f"{variable(('ml', 'features', 'provided'))}: {error}") from error
    except (ValueError, UnknownFeatureError) as error:
        raise ConfigurationError(f"the features cannot be computed: {error}") from error
