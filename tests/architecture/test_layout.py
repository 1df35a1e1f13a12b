"""One room a job: how many modules a folder holds, what a package loads, and the map of the documentation."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.source_tree import PACKAGES, ROOT, Module, planted, source_modules

MODULES = source_modules()
MOST_MODULES = 15
MAP = ROOT / "docs" / "architecture.md"


def overfull(modules: Sequence[Module]) -> list[str]:
    """Folders with more modules than one can know, packages' own files not counted."""
    held = Counter(module.path.parent for module in modules if not module.is_package)
    return [f"{folder}: {count}" for folder, count in held.items() if count > MOST_MODULES]


def loading_packages(modules: Sequence[Module]) -> list[str]:
    """Files of packages that hold more than a docstring."""
    return [
        module.place(module.tree.body[-1], "more than a docstring")
        for module in modules
        if module.is_package
        and (len(module.tree.body) > 1 or (module.tree.body and not ast.get_docstring(module.tree)))
    ]


def folders(root: Path) -> set[str]:
    """Every folder of the packages that holds more than a package's own file."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file()]
    held = {path.parent.relative_to(root) for path in files if path.name not in ("__init__.py", "py.typed")}
    return {f"{folder}/" for folder in held if "__pycache__" not in folder.parts}


def mapped(text: str) -> list[str]:
    """The folders that a page's map has a line for: `| `folder/` | what |`."""
    return re.findall(r"^\| `((?:worker|trading_system)[\w/]*/)` \| \S", text, flags=re.MULTILINE)


def test_a_folder_holds_no_more_than_one_can_know() -> None:
    assert overfull(MODULES) == []


def test_loading_a_package_of_the_worker_loads_nothing() -> None:
    assert loading_packages([module for module in MODULES if module.path.parts[0] == "worker"]) == []


def test_the_map_of_the_documentation_has_one_line_for_every_folder_and_no_other() -> None:
    named = mapped(MAP.read_text())
    assert sorted(named) == sorted(folders(ROOT))


def test_modules_that_the_documentation_names_are_there() -> None:
    text = MAP.read_text()
    named = set(re.findall(r"`((?:worker|trading_system)/[\w/.]+\.(?:py|lua))`", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_rules_of_the_layout_find_what_breaks_them(tmp_path: Path) -> None:
    files = {f"worker/flat/m{number}.py": "" for number in range(MOST_MODULES + 1)}
    packages = {"worker/flat/__init__.py": '"""One."""\nimport rq\n', "worker/other/__init__.py": '"""Two."""\n'}
    modules = planted(tmp_path, {**files, **packages, "worker/other/sql/one.sql": ""})
    assert overfull(modules) == [f"worker/flat: {MOST_MODULES + 1}"]
    assert loading_packages(modules) == ["worker/flat/__init__.py:2 more than a docstring"]
    assert folders(tmp_path) == {"worker/flat/", "worker/other/sql/"}
    assert mapped("| `worker/flat/` | what\n| `worker/none/` |  |\n| `deploy/` | units |\n") == ["worker/flat/"]
