"""Stores as an older release left them: the models are in their files alone."""

from __future__ import annotations

from pathlib import Path

from trading_system.ml_refinement.storage import FeatureDatabase


def only_in_files(store: FeatureDatabase | Path) -> None:
    """Drop what the store keeps of its models' bytes."""
    if isinstance(store, Path):
        with FeatureDatabase(store) as opened:
            only_in_files(opened)
        return
    with store.atomic():
        store._connection.run("DELETE FROM artefacts")
