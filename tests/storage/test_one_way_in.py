"""A store is opened in one place: what must be known before it is opened is asked there, and nowhere forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: `open_store`, and `open_copy` for the files of a backup, which belong to no installation.
OPENS = Path("worker/installation.py")


def called(tree: ast.AST) -> Iterator[str]:
    """The last part of the name of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", ""))


def test_the_worker_opens_a_store_in_one_module() -> None:
    paths = [path.relative_to(ROOT) for path in (ROOT / "worker").rglob("*.py")]
    assert {path for path in paths if "FeatureDatabase" in called(ast.parse((ROOT / path).read_text()))} == {OPENS}
