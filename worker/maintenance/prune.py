"""Retention: what is old, was dealt with, and nothing needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from trading_system.ml_refinement.actors import acting_user
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import utc_text
from worker.installation import existing_store, open_archive
from worker.settings.schema import Settings

#: Nothing is tried for so long; what is left are entries that were done with when their worker was killed.
_ATTEMPTS_DAYS = 30


@dataclass(frozen=True, slots=True)
class Days:
    """What is kept for how many days; None for ever."""

    dead_letters: int | None
    predictions: int | None
    events: int | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many were dropped, or would be."""

    dead_letters: int
    predictions: int
    events: int


def prune(settings: Settings, days: Days, *, now: datetime, dry_run: bool = False) -> Pruned:
    """Drop what is older, in short transactions beside a running worker.

    Raises:
        StoreUnavailable: the store is locked or full; what was dropped so far stays dropped.
    """

    def bound(kept: int) -> str:
        return utc_text(now - timedelta(days=kept))

    with existing_store(settings) as store:
        letters = 0 if days.dead_letters is None else _letters(store, bound(days.dead_letters), dry_run)
        predictions = 0
        if days.predictions is not None:
            predictions = store.scores.prune(bound(days.predictions), dry_run=dry_run)
        if not dry_run:
            store.attempts.prune(bound(_ATTEMPTS_DAYS))
    events = 0
    if days.events is not None and settings.archive_is_there:
        with open_archive(settings) as archive:
            older_than = now - timedelta(days=days.events)
            events = archive.count_older(older_than) if dry_run else archive.prune(older_than)
    return Pruned(letters, predictions, events)


def _letters(store: FeatureDatabase, older_than: str, dry_run: bool) -> int:
    if dry_run:
        return store.dead_letters.count_settled(older_than)
    total, at_once = 0, 1000
    while True:
        gone = store.dead_letters.prune(older_than, actor=acting_user(), limit=at_once)
        total += gone
        if gone < at_once:
            return total
