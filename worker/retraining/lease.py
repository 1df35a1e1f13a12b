"""The right to train: a lease in the store, which one process on one host has, and keeps by saying that it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.settings.schema import Settings
from worker.supervision.leases import give_back, holder_at_work, take
from worker.supervision.process_identity import place_name

TRAINING: Final = "training"
#: A holder that has not said so long that it lives is taken for dead, by the database's clock ...
LEASE_S: Final = 90
#: ... and one that lives says it so often.
_RENEWED_EVERY_S = 5.0
_POLL_S = 0.5


def trainer_at_work(store: FeatureDatabase) -> str | None:
    """Who trains now, in words; None where nobody does, as far as can be known."""
    lease = holder_at_work(store, TRAINING)
    return None if lease is None else place_name(lease.holder)


def take_lease(store: FeatureDatabase, *, first: Callable[[FeatureDatabase], object]) -> int | None:
    """Take the right to train, if nobody who may live has it; its token. `first` is done in the same transaction."""
    return take(store, TRAINING, LEASE_S, first=first)


@contextmanager
def training_lease(
    settings: Settings, store: FeatureDatabase, *, first: Callable[[FeatureDatabase], object]
) -> Iterator[None]:
    """Waits for the right to train and has it while the block runs; a thread says so to the database."""
    while (token := take_lease(store, first=first)) is None:
        time.sleep(_POLL_S)
    ending = threading.Event()
    keeper = threading.Thread(target=_keep, args=(settings, token, ending), name="training-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ending.set()
        keeper.join()
        give_back(store, TRAINING, token)


def _keep(settings: Settings, token: int, ending: threading.Event) -> None:
    """Renew the lease over a connection of its own: that of the training may be at work for longer."""
    while not ending.wait(_RENEWED_EVERY_S):
        try:
            with closing(open_store(settings)) as store:
                while store.leases.renew(TRAINING, token, LEASE_S):
                    if ending.wait(_RENEWED_EVERY_S):
                        return
        except (StoreError, ConfigurationError) as error:
            logger.warning("the right to train could not be renewed just now: {}", error)
            continue
        logger.error("the right to train was lost: this process stood still too long; what it trains will not serve")
        return
