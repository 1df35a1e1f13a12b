"""Predictions that nothing needs any more."""

from __future__ import annotations

from trading_system.ml_refinement.storage.connection import Connection


def prune_predictions(connection: Connection, older_than: str, *, dry_run: bool = False, at_once: int = 5000) -> int:
    """Drop predictions made before, in short transactions; how many.

    Kept are those of models that serve, and those whose trade has not closed: their actual is still to come.

    Args:
        connection: of the store.
        older_than: the store's fixed-width text.
        dry_run: count only.
        at_once: rows looked at in one transaction.
    """
    dropped = after = 0
    while True:
        window = connection.query(WINDOW, (after, at_once))
        if not window or window[0][0] is None:
            return dropped
        last = int(window[0][0])
        if dry_run:
            dropped += int(connection.query(f"SELECT count(*) {NOT_NEEDED}", (after, last, older_than))[0][0])
        else:
            with connection.atomic():
                dropped += connection.run(f"DELETE {NOT_NEEDED}", (after, last, older_than))
        after = last


WINDOW = "SELECT max(id) FROM (SELECT id FROM prediction_log WHERE id > ? ORDER BY id LIMIT ?)"
NOT_NEEDED = """
    FROM prediction_log WHERE id > ? AND id <= ? AND predicted_at < ? AND actual_r IS NOT NULL
        AND model_id NOT IN (SELECT model_id FROM model_registry WHERE is_active = 1)"""
