"""The store's errors as the worker's: it waits for one that is unavailable, and stops at one that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from trading_system.ml_refinement.storage import StoreDamaged, StoreUnavailable
from worker.errors import StoreUnusable, TransientError


@contextmanager
def translated_store_errors(*, use: Literal["read", "written"] = "written") -> Iterator[None]:
    """Cut the store's errors by what the loop does about them.

    Raises:
        TransientError: the store cannot be used now.
        StoreUnusable: the store is damaged.
    """
    try:
        yield
    except StoreUnavailable as error:
        raise TransientError(f"the store cannot be {use}: {error}") from error
    except StoreDamaged as error:
        raise StoreUnusable(f"the store is damaged: {error}; stop, and restore a backup") from error
