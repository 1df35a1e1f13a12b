"""Which worker a process is: state directory and slot make its name in the group, and a lock makes it its own.

Two workers of one name would read each other's pending entries. A slot outlives its process, so that the next one in it
finds what the last one had in hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import ServerBusy
from worker.settings.schema import Settings
from worker.state_dir import make_private, place_of, take_lock

_MOST_SLOTS = 1000


@contextmanager
def worker_slot(settings: Settings) -> Iterator[Settings]:
    """The settings with a slot that no other process of this state directory has, while the block runs, and with a name
    that no other state directory has.

    The slot that was asked for, or else the lowest free one.

    Raises:
        ServerBusy: the slot that was asked for is taken, or all are.
        ConfigurationError: the state directory cannot be made private.
    """
    directory = settings.state_dir / "workers"
    make_private(settings.state_dir.resolve())
    make_private(directory)
    wanted = "consumer_slot" in settings.model_fields_set
    for slot in [settings.consumer_slot] if wanted else range(_MOST_SLOTS):
        lock = take_lock(directory / f"slot-{slot}.lock")
        if lock is not None:
            try:
                yield settings.model_copy(update={"consumer_slot": slot, "consumer_name": _named(settings)})
            finally:
                os.close(lock)
            return
    which = f"slot {settings.consumer_slot}" if wanted else "every slot"
    raise ServerBusy(f"{which} of {settings.state_dir} is taken by a running worker")


def others_at_work(settings: Settings) -> bool:
    """Whether another slot of this state directory is taken."""
    return _taken(settings, but=f"slot-{settings.consumer_slot}.lock")


def workers_at_work(settings: Settings) -> bool:
    """Whether any slot of this state directory is taken; not for a process that has one."""
    return _taken(settings, but="")


def _taken(settings: Settings, *, but: str) -> bool:
    for path in (settings.state_dir / "workers").glob("slot-*.lock"):
        if path.name != but:
            lock = take_lock(path)
            if lock is None:
                return True
            os.close(lock)
    return False


def _named(settings: Settings) -> str:
    return f"{settings.consumer_name or socket.gethostname()}-{place_of(settings.state_dir)}"
