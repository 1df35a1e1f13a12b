"""Public functions say what they raise and of which shape their arrays are; examples do what they print."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.source_tree import Function, Module, own_statements, planted, source_modules

MODULES = source_modules()
EXAMPLES = [module.name for module in MODULES if ">>> " in module.text]

ARRAY = re.compile(r"\b(\w+Array|ArrayLike|NDArray|ndarray)\b")
_DIMENSION = r"(?:\w+\([^()]*\)|\w+|\.\.\.)(?:\s*[+*-]\s*\w+)*"
#: `(n,)`, `(n, n_features)`, `(edges + 1,)`, or the shape of something else that is named.
SHAPE = re.compile(
    rf"\(\s*{_DIMENSION}\s*,(?:\s*{_DIMENSION}\s*,)*(?:\s*{_DIMENSION})?\s*\)|[Ss]hapes? of |[Ss]ame shape"
)


def silent_raises(modules: Sequence[Module]) -> list[str]:
    """Public functions with a `raise` of their own and no word of it."""
    return [
        module.place(node, name)
        for module in modules
        for name, node in module.public()
        if isinstance(node, Function)
        and any(isinstance(part, ast.Raise) and part.exc is not None for part in own_statements(node))
        and not re.search(r"\b[Rr]aises\b", ast.get_docstring(node) or "")
    ]


def shapeless(modules: Sequence[Module]) -> list[str]:
    """Public functions that take or give arrays, and classes that hold them, whose docstrings give no shape."""
    return [
        module.place(node, name)
        for module in modules
        for name, node in module.public()
        if any(ARRAY.search(ast.unparse(one)) for one in _annotations(node)) and not SHAPE.search(_said(module, node))
    ]


def _annotations(node: Function | ast.ClassDef) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
    taken = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [one for one in (*(argument.annotation for argument in taken), node.returns) if one is not None]


def _said(module: Module, node: Function | ast.ClassDef) -> str:
    """The docstring, and of a class the comments on its fields."""
    said = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        said += "\n".join(line for line in module.lines[node.lineno : node.end_lineno] if "#:" in line)
    return said


def test_a_public_function_that_raises_says_so() -> None:
    assert silent_raises(MODULES) == []


def test_arrays_that_are_public_have_their_shapes_told() -> None:
    assert shapeless(MODULES) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_docstrings_do_what_they_print(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert result.failed == 0


def test_the_rules_of_docstrings_find_what_breaks_them(tmp_path: Path) -> None:
    text = '''
class Prices:
    """Arrays (columns, of one length)."""

    close: FloatArray

    def mean(self) -> FloatArray:
        """Shape (n, 2)."""
        raise ValueError("empty")

    def _hidden(self, X: FloatArray) -> None:
        raise ValueError

def told(X: FloatArray) -> None:
    """Same shape.

    Raises:
        ValueError: always.
    """
    raise ValueError
'''
    modules = planted(tmp_path, {"worker/prices.py": text})
    assert silent_raises(modules) == ["worker/prices.py:7 Prices.mean"]
    assert shapeless(modules) == ["worker/prices.py:2 Prices"]
