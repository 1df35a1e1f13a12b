"""Packages offer their names without loading what these need."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = "trading_system.ml_refinement"
OFFERING = (
    LIBRARY,
    *(f"{LIBRARY}.{name}" for name in ("features", "features.extractors", "models", "storage", "validation")),
)
HEAVY = ("numpy", "pandas", "scipy", "sklearn", "skops", "apsw", "loguru")
#: What the specification imports from packages.
SPECIFIED = {
    LIBRARY: {
        "FeatureConfig",
        "FeatureSet",
        "FeatureVector",
        "MLConfig",
        "ModelMetadata",
        "ModelType",
        "TrainingConfig",
    },
    f"{LIBRARY}.models": {"BaseModel", "ModelRegistry", "SignalQualityModel"},
}


def said_to_type_checkers(package: str) -> dict[str, str]:
    """The module of each name that is imported under `TYPE_CHECKING`."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", OFFERING)
def test_what_a_package_offers_is_what_type_checkers_see(package: str) -> None:
    offers, said = import_module(package), said_to_type_checkers(package)
    assert offers.__all__ == sorted(said)
    assert SPECIFIED.get(package, set()) <= set(said)
    for name, module in said.items():
        assert getattr(offers, name) is getattr(import_module(module), name)
    assert set(said) <= set(dir(offers))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nothing'"):
        offers.Nothing  # noqa: B018 - it is the reading that must fail


def test_importing_the_packages_loads_nothing_but_themselves() -> None:
    tell = f"import sys, {', '.join(OFFERING)}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
