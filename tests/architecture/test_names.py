"""Names are the field's words, and one name is one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.source_tree import Function, Module, planted, source_modules

MODULES = source_modules()
EVERYTHING = (*MODULES, *source_modules(packages=("tests", "benchmarks")))

#: Words of ours for which the field has its own: dead-letter, deduplicate, back-off, parent death, auxiliary model, ...
GONE_WORD = re.compile(r"bur(y|ies|ied|ials?)|companions?|eyes|fates?|lifeless|lifeline|patience|theatre|worth")
#: Names whose words are good and which said nothing, or something else.
GONE_NAMES = frozenset(("ClaimKeeper", "Handled", "Pulse", "Reading", "due_at", "json_door", "may_ask", "stream_care"))
#: Producers in Python pass it by this name.
KEPT_NAMES = frozenset(("patience_s",))


def defined_twice(modules: Sequence[Module]) -> list[str]:
    """Classes that share their name with another."""
    places = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.place(node, node.name))
    return [place for found in places.values() if len(found) > 1 for place in found]


def gone(modules: Sequence[Module]) -> list[str]:
    """Modules, classes, functions, arguments and variables with a name that went."""
    wrong = [f"{module.path}:1 {module.path.stem}" for module in modules if _went(module.path.stem)]
    for module in modules:
        wrong += [module.place(node, name) for node, name in _given(module.tree) if _went(name)]
    return wrong


def _given(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr | ast.arg, str]]:
    """Every place where something gets its name."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node, node.name
        elif isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node, node.attr


def _went(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return name in GONE_NAMES or (name not in KEPT_NAMES and any(GONE_WORD.fullmatch(word) for word in words))


def test_a_class_name_is_one_class() -> None:
    assert defined_twice(MODULES) == []


def test_words_that_went_stay_away() -> None:
    assert gone(EVERYTHING) == []


def test_the_rules_of_names_find_what_breaks_them(tmp_path: Path) -> None:
    modules = planted(
        tmp_path,
        {
            "worker/entry_fates.py": "class Champion: ...\ndef bury_all(due_at): ...\n",
            "worker/metrics.py": "class Champion: ...\nclass EntryFate: ...\nworth = 1\n",
        },
    )
    assert defined_twice(modules) == ["worker/entry_fates.py:1 Champion", "worker/metrics.py:1 Champion"]
    assert gone(modules) == [
        "worker/entry_fates.py:1 entry_fates",
        "worker/entry_fates.py:2 bury_all",
        "worker/entry_fates.py:2 due_at",
        "worker/metrics.py:2 EntryFate",
        "worker/metrics.py:3 worth",
    ]
