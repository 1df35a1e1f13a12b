"""A store is opened in one module, and what is asked of it stands in storage: nothing is forgotten or written twice."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STORAGE = Path("trading_system/ml_refinement/storage")
#: `open_store` and `open_archive`, and `open_copy` for the files of a backup, which belong to no installation.
OPENS = Path("worker/installation.py")
SQL = re.compile(
    r"SELECT\s.+\sFROM\s|INSERT\s.*INTO\s|UPDATE\s.+\sSET\s|DELETE\s+FROM\s|CREATE\s+TABLE\s|PRAGMA\s", re.DOTALL
)
DRIVERS = frozenset({"apsw", "psycopg", "sqlite3"})
MODULES = [
    path.relative_to(ROOT)
    for package in ("worker", "trading_system", "examples")
    for path in sorted((ROOT / package).rglob("*.py"))
]
OUTSIDE = [path for path in MODULES if not path.is_relative_to(STORAGE)]


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse((ROOT / path).read_text()))


def texts(path: Path) -> Iterator[str]:
    """String literals; of an f-string, its fixed parts joined."""
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "?".join(part.value for part in node.values if isinstance(part, ast.Constant))


def imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("kind", ["FeatureDatabase", "EventArchive"])
def test_the_worker_opens_store_and_archive_in_one_module(kind: str) -> None:
    def constructs(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == kind

    worker = [path for path in MODULES if path.is_relative_to("worker")]
    assert [path for path in worker if any(map(constructs, nodes(path)))] == [OPENS]


def test_there_is_no_sql_outside_storage() -> None:
    assert {str(path): text for path in OUTSIDE for text in texts(path) if SQL.search(text)} == {}


def test_only_storage_imports_a_driver() -> None:
    assert [str(path) for path in OUTSIDE if DRIVERS.intersection(imported(path))] == []


def test_our_own_code_asks_tables_and_not_the_connection() -> None:
    """`connection` and `transaction` are the specification's, for whoever uses the library by hand."""

    def reaches(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and ast.unparse(node).endswith(
            ("store.connection", "db.connection", ".transaction")
        )

    assert [str(path) for path in OUTSIDE if any(map(reaches, nodes(path)))] == []


def test_the_worker_writes_features_through_the_feature_store_alone() -> None:
    def writes(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and ast.unparse(node).endswith(
            ("vectors.insert_new", "versions.replace", ".store_feature_vector")
        )

    worker = [path for path in MODULES if path.is_relative_to("worker")]
    assert [str(path) for path in worker if any(map(writes, nodes(path)))] == []


@pytest.mark.parametrize(
    "text",
    ["SELECT a FROM b", "\n  INSERT OR FAIL INTO a VALUES (1)", "UPDATE a\nSET b = 1", "DELETE FROM a", "PRAGMA b"],
)
def test_sql_is_recognised(text: str) -> None:
    assert SQL.search(text)
