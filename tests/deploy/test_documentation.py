"""Every command, setting, metric, reason and feature is documented, and nothing that is documented is missing.

Metrics are compared in `test_metrics.py`, events and reasons in the events' own tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig
from trading_system.ml_refinement.features import FeaturePipeline
from worker.cli.main import cli
from worker.errors import Reason
from worker.settings.messages import CONFIG_VARIABLE, setting_types
from worker.settings.reference import page
from worker.settings.schema import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
EVERYTHING = "\n".join(path.read_text() for path in PAGES)


def commands(group: Any, name: str = "refinery") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    if hasattr(group, "commands"):
        if group.invoke_without_command and name != "refinery":
            yield name, group
        for word, command in group.commands.items():
            yield from commands(command, f"{name} {word}")
    else:
        yield name, group


COMMANDS = dict(commands(get_command(cli)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented(name: str) -> None:
    *group, last = name.split()
    in_full = rf"{name}\b"
    in_a_list = rf"`{' '.join(group)} [^|\n]*`{last}`"
    assert re.search(in_full, EVERYTHING) or re.search(in_a_list, EVERYTHING), f"{name} is in no document"


def test_a_command_that_is_documented_exists() -> None:
    groups = {name.rsplit(" ", 1)[0] for name in COMMANDS}
    wrong = []
    for path in PAGES:
        for words in re.findall(r"\brefinery ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)", in_code(path)):
            first, _, second = words.partition(" ")
            known = f"refinery {first}" in COMMANDS or f"refinery {first}" in groups
            if not known or (f"refinery {first}" in groups and second and f"refinery {words}" not in COMMANDS):
                wrong.append((path.name, words))
    assert wrong == []


def in_code(path: Path) -> str:
    """What stands in code spans and code blocks."""
    text = path.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_in_its_help_what_it_does(name: str) -> None:
    assert len((COMMANDS[name].help or "").strip()) > 20


def test_the_figures_of_learning_in_the_readme_are_the_defaults() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    ml = MLConfig()
    assert f"Every {ml.min_new_samples_for_retrain} new labels, " in text
    assert f"the first one after {ml.retrain_frequency_days} days, " in text
    assert f"With fewer than {ml.training.min_training_samples} samples it trains nothing" in text
    assert f"of {ml.training.min_training_samples} samples" in text


def test_the_page_of_settings_is_made_from_the_settings() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), (
        "python -m worker.settings.reference > docs/settings.md"
    )


def test_every_setting_says_what_it_is() -> None:
    rows = re.findall(r"^\| `(REFINERY_\w+)` \|.*\| ([^|]*) \|$", page(), re.M)
    assert [name for name, _ in rows] and {name for name, _ in rows} == set(setting_types(Settings))  # noqa: PT018
    assert [name for name, text in rows if len(text) < 10] == []


def test_a_setting_that_is_documented_exists() -> None:
    known = {*setting_types(Settings), CONFIG_VARIABLE}
    named = set(re.findall(r"\bREFINERY_[A-Z0-9_]*[A-Z0-9]\b(?!\*|__)", EVERYTHING))
    groups = {name.rsplit("__", depth)[0] for name in known for depth in (1, 2)}
    of_kubernetes = {"REFINERY_SERVICE_HOST"}
    assert named - known - groups - of_kubernetes == set()


def test_every_reason_is_documented_and_no_other() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "dead-letters.md").read_text(), re.M)
    assert {reason.value for reason in Reason} <= set(listed)


def test_every_feature_is_documented() -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED, include_news_features=True))
    text = (ROOT / "docs" / "features.md").read_text()
    assert [name for name in pipeline.names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_link_between_documents_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_document_is_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in PAGES if path.name != "README.md" and f"docs/{path.name}" not in readme] == []


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = re.findall(r"^## D(\d+)\. ", (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8"), re.M)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def test_the_changelog_has_each_heading_of_a_release_once() -> None:
    for release in re.split(r"(?m)^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1:]:
        headings = re.findall(r"(?m)^### (.*)$", release)
        assert len(set(headings)) == len(headings), release.splitlines()[0]
