"""The source as syntax trees: what the rules of the house are looked up in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("worker", "trading_system")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom


@dataclass(frozen=True, slots=True)
class Module:
    """One source file; `path` is relative to the tree it was found in."""

    path: Path
    text: str
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        """As it is imported; that of a package for its `__init__`."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if self.is_package else parts)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def place(self, node: ast.stmt | ast.expr | ast.arg, what: str) -> str:
        return f"{self.path}:{node.lineno} {what}"

    def public(self) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        """Public functions, methods and classes, by their qualified names."""
        yield from _public(self.tree.body, "")


def _public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{prefix}{node.name}.")


def source_modules(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> tuple[Module, ...]:
    """Every module of the packages."""
    found = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    texts = ((path.relative_to(root), path.read_text()) for path in found)
    return tuple(Module(path, text, ast.parse(text)) for path, text in texts)


def planted(root: Path, files: dict[str, str]) -> tuple[Module, ...]:
    """A small tree written for the purpose: what a rule must find."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source_modules(root)


def loaded_at_import(module: Module) -> Iterator[Import]:
    """The imports that importing the module runs: not those inside functions, nor those for the type checker alone."""
    waiting: list[ast.AST] = list(module.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Import):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, Function | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def imported(node: Import) -> list[str]:
    """Full names that an import asks for; `from a import b` asks for `a.b`, be that a module or a name in one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def own_statements(function: Function) -> Iterator[ast.AST]:
    """Everything in a function's body but what stands in functions and classes of its own."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
