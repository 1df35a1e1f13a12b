"""What a process that works in batches asks of its interpreter and of its allocator."""

from __future__ import annotations

import ctypes
import gc

#: Objects more than were freed, before those are looked at; a batch in hand holds some thousands.
_YOUNG = 5_000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: So much of what a batch gives back is kept for the next one.
_KEPT_BYTES = 32 * 1024 * 1024


def keep_between_batches() -> None:
    """Do not look for garbage among what was there before the first batch, and do not fetch each batch's memory anew.

    To look through what was imported takes longer than a batch, and comes again and again. Pages that go
    back to the system after each array of a batch come from it again, zeroed, at the next.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another allocator than GNU's
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
