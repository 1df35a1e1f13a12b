"""Who loads what. The layers themselves are import-linter's, in pyproject.toml."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.support.source_tree import (
    Function,
    Import,
    Module,
    imported,
    loaded_at_import,
    planted,
    source_modules,
)

MODULES = source_modules()

#: Packages that only these folders and modules may name.
RESERVED = {
    "rq": ("worker.retraining", "worker.console"),
    "rq_dashboard": ("worker.console",),
    "apsw": ("trading_system.ml_refinement.storage",),
    "sqlite3": ("trading_system.ml_refinement.storage",),
    "psycopg": ("trading_system.ml_refinement.storage.postgres",),
}


def graph(modules: Sequence[Module]) -> dict[str, set[str]]:
    """Which module loads which at import."""
    known = {module.name for module in modules}
    loads: dict[str, set[str]] = {}
    for module in modules:
        asked = [name for node in loaded_at_import(module) for name in imported(node)]
        found = {name if name in known else name.rpartition(".")[0] for name in asked}
        loads[module.name] = (found & known) - {module.name}
    return loads


def circle(modules: Sequence[Module]) -> list[str]:
    """Modules that load each other in a circle; empty without one."""
    try:
        TopologicalSorter(graph(modules)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def strangers(modules: Sequence[Module]) -> list[str]:
    """Imports of a reserved package outside the folders it is reserved to, those inside functions included."""
    return [
        module.place(node, package)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, Import)
        for package in sorted({name.partition(".")[0] for name in imported(node)} & RESERVED.keys())
        if not any(f"{module.name}.".startswith(f"{home}.") for home in RESERVED[package])
    ]


def without_reason(modules: Sequence[Module]) -> list[str]:
    """Imports inside functions with no comment beside or above them, and none on the first of those they stand with."""
    bare = []
    for module in modules:
        lines, explained = module.lines, 0
        for node in sorted(_inside_functions(module.tree), key=lambda node: node.lineno):
            last = node.end_lineno or node.lineno
            own = any(_reason(line) for line in lines[node.lineno - 1 : last])
            above = lines[node.lineno - 2].lstrip().startswith("#")
            if own or above or node.lineno == explained + 1:
                explained = last
            else:
                bare.append(module.place(node, ast.unparse(node)))
    return bare


def _inside_functions(tree: ast.Module) -> set[Import]:
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return {node for function in functions for node in ast.walk(function) if isinstance(node, Import)}


def _reason(line: str) -> bool:
    """Is there a comment that says something to people?"""
    _, hash_sign, comment = line.partition("#")
    return bool(hash_sign) and not re.fullmatch(r"\s*(noqa|type:)[^#]*", comment)


def test_no_module_loads_itself_in_a_circle() -> None:
    assert circle(MODULES) == []


def test_the_queue_and_the_drivers_are_named_where_they_belong() -> None:
    assert strangers(MODULES) == []


def test_an_import_inside_a_function_has_its_reason() -> None:
    assert without_reason(MODULES) == []


def test_the_rules_of_imports_find_what_breaks_them(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        {
            "worker/a.py": "from worker import b\n",
            "worker/b.py": "from worker.c import name\n",
            "worker/c.py": "import worker.a\nimport apsw\n",
            "worker/console/jobs.py": "def f():\n    import rq\n    import redis  # loads the client\n    import os\n",
            "worker/app.py": "def queue():\n    # the queue is loaded late\n    from rq import Queue\n",
        },
    )
    assert sorted(set(circle(modules))) == ["worker.a", "worker.b", "worker.c"]
    assert strangers(modules) == ["worker/app.py:3 rq", "worker/c.py:2 apsw"]
    assert without_reason(modules) == ["worker/console/jobs.py:2 import rq"]


def test_what_goes_to_a_terminal_passes_the_one_place_that_makes_it_printable() -> None:
    home = "worker.observability.terminal"
    raw = {"rich.markup", "rich.console.Console", "rich.table.Table", "rich.print"}
    found = [
        module.place(node, name)
        for module in MODULES
        if module.name != home
        for node in {*ast.walk(module.tree)} - only_for_types(module)
        if isinstance(node, Import)
        for name in named(node)
        if name in raw or name.rpartition(".")[0] in raw
    ]
    assert found == []


def named(node: Import) -> list[str]:
    """What an import brings, with its module."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names]


def only_for_types(module: Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING`."""
    guarded = (
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    return {inner for node in guarded for inner in ast.walk(node)}
