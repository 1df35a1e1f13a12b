"""docs/security.md says that each claim names a test which would fail without it; and tests that pages name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
#: A function or a file of tests, as pages name them.
NAMED = re.compile(r"`(?:[\w/]+/)?(test_\w+)(?:\.py)?`")
#: What somebody is trusted with, and what is not done: nothing there can fail.
NO_CLAIMS = ("# Security", "What is trusted", "What this does not do")


def names_of_tests() -> set[str]:
    files = list((ROOT / "tests").rglob("test_*.py"))
    return {path.stem for path in files} | {
        name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    }


def claims() -> Iterator[str]:
    """Every paragraph and every item of a list of the sections that claim something."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for section in text.split("\n## "):
        title, _, body = section.partition("\n")
        if title not in NO_CLAIMS:
            blocks = re.split(r"\n\n|\n(?=- )", body.strip())
            yield from (block for block in blocks if not re.fullmatch(r"\*\*\w+\*\*", block.strip()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_test_that_a_page_names_exists(page: Path) -> None:
    known = names_of_tests()
    assert [name for name in NAMED.findall(page.read_text(encoding="utf-8")) if name not in known] == []


def test_every_claim_about_security_names_a_test() -> None:
    found = list(claims())
    assert len(found) > 20
    assert [claim for claim in found if not NAMED.search(claim)] == []


def test_the_pins_have_every_package_that_an_installation_brings() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = distribution("signal-refinery").metadata.get_all("Provides-Extra") or []
    left, seen = [("signal-refinery", extra) for extra in (*extras, "")], set()
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # of an extra that is not installed here; what it brings is not known
            continue
        for line in required:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(needed.name), one) for one in (*needed.extras, "")]
    wanted = {name for name, _ in seen} - {"signal-refinery"}
    assert len(wanted) > 20
    assert wanted - pinned == set()
