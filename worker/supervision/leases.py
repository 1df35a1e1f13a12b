"""What only one process of all that share a store may do: a lease of the store, under this process's name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from trading_system.ml_refinement.storage.shared.leases import Lease
from worker.supervision.process_identity import known_dead, this_process

#: What this process has now, by name and token. A lease of its that is not among them was not given back, as where the
#: store was away.
_held: set[tuple[str, int]] = set()


def holder_at_work(store: FeatureDatabase, name: str) -> Lease | None:
    """Who has a lease; None where nobody does, as far as can be known."""
    lease = store.leases.holder_of(name)
    return None if lease is None or known_dead(lease.holder) else lease


def take(
    store: FeatureDatabase, name: str, seconds: int, *, first: Callable[[FeatureDatabase], object] = lambda _: None
) -> int | None:
    """Take a lease, if nobody who may live has it; its token.

    `first` is done in the same transaction: what the last holder still writes after it finds that done.
    """
    lease = store.leases.holder_of(name)
    over = lease.token if lease is not None and (_left_over(name, lease) or known_dead(lease.holder)) else None
    if lease is not None and over is None:
        return None
    with store.atomic():
        token = store.leases.take(name, str(this_process()), seconds, over=over)
        if token is not None:
            first(store)
    if token is not None:
        _held.add((name, token))
    return token


def give_back(store: FeatureDatabase | None, name: str, token: int) -> None:
    """Let another one have it. Where the store is away, it has to end or run out first."""
    _held.discard((name, token))
    if store is not None:
        with suppress(StoreError):
            store.leases.release(name, token)


def _left_over(name: str, lease: Lease) -> bool:
    return lease.holder == str(this_process()) and (name, lease.token) not in _held
