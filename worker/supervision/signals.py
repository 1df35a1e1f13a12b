"""SIGTERM and SIGINT as an event, and a limit to how long draining may take."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def drain_deadline(stop: threading.Event, grace_s: float) -> Iterator[None]:
    """Set `stop` when told to end, and end the process hard when it has not ended `grace_s` later, or is told again.

    Nothing is lost by that, since nothing in hand is acknowledged. The signal is heard through a pipe: Python's own
    handlers wait for as long as the main thread is inside the store.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    from loguru import logger  # with the log, which commands that look do without

    def watch() -> None:
        if not os.read(heard, 1):
            return
        stop.set()
        again, _, _ = select.select([heard], [], [], grace_s)
        if again and not os.read(heard, 1):
            return
        logger.error("not finished {}; what is in hand is left to the next worker", "yet" if again else "in time")
        os._exit(1)

    watcher = threading.Thread(target=watch, name="drain-deadline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join(1)
        os.close(heard)


def stop_on_signals(stop: threading.Event | None = None) -> threading.Event:
    """An event that SIGTERM and SIGINT set, for a process that finishes what it has in hand.

    The handlers raise nothing: a finalizer, a weak reference's callback or an import that a signal interrupts may
    swallow what is raised there, and the process would go on as if nobody had told it to stop.

    Args:
        stop: the one to set, where a library has put handlers of its own in between; None: a new one.
    """
    told = threading.Event() if stop is None else stop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told
