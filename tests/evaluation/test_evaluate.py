"""The evaluation of worlds with known truth, and the page and picture of it."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from typer.testing import CliRunner

from tests.support.labels import replaced_by_virtual
from tests.support.learning_installation import (
    NOW,
    VERSION,
    LearningInstallation,
    fitted,
    learning_installation,
    narrow,
    quick,
)
from trading_system.ml_refinement.evaluation.evaluate import Evaluation, evaluate
from trading_system.ml_refinement.labelling.rules import labelling_rule
from trading_system.ml_refinement.models.errors import TooFewSamples
from trading_system.ml_refinement.storage.tables.scores import PredictionRow
from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomeRow
from trading_system.ml_refinement.storage.times import text_from_us, utc_text
from trading_system.ml_refinement.training.verdicts import Decision
from trading_system.simulation.worlds import clustered, independent
from worker.cli.main import cli
from worker.installation import open_store
from worker.report import charts
from worker.report.charts import Draw, merged
from worker.report.formatting import number, plain
from worker.report.page import html
from worker.report.picture import png
from worker.settings.schema import load_settings

CONFIG = quick(train_window_days=90, step_size_days=30)


def evaluated(installation: LearningInstallation) -> Evaluation:
    clock = lambda: NOW  # noqa: E731
    return evaluate(installation.db, CONFIG, names=installation.feature_names, feature_version=VERSION, clock=clock)


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[LearningInstallation, Evaluation]:
    """A world with skill, the first half of it served by one model and scored in the shadow by another."""
    world = narrow(independent(900, np.random.default_rng(5), kind="linear", auc=0.72), 8)
    installation = learning_installation(tmp_path_factory.mktemp("skilled"), world)
    champion, shadow = fitted(1, columns=8), fitted(2, columns=8)
    for model in (champion, shadow):
        installation.registry.register(model)
    installation.registry.promote(champion.model_id, proven=True)
    with installation.db.atomic():
        installation.db.scores.log_predictions(
            [
                PredictionRow(f"s{i:06d}", model.model_id, utc_text(NOW), p, 0.0, 0.0, role)  # type: ignore[arg-type]
                for i in range(450)
                for model, p, role in ((champion, 0.45, "champion"), (shadow, float(world.truth[i]), "shadow"))
            ]
        )
    return installation, evaluated(installation)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluated(
        learning_installation(tmp_path_factory.mktemp("noise"), narrow(clustered(300, np.random.default_rng(7)), 8))
    )


def figure(evaluation: Evaluation, name: str) -> float:
    return next(line.found.value for line in evaluation.figures if line.name == name)


def test_skill_is_found_and_said(skilled: tuple[LearningInstallation, Evaluation]) -> None:
    _, found = skilled
    assert found.verdict.decision is Decision.PROMOTE
    assert found.words.startswith("There is evidence of skill")
    assert figure(found, "AUC") > 0.6
    assert figure(found, "log loss gained") > 0.0
    assert figure(found, "lift, R") > 0.3
    ways = {way.name: way.expectancy.value for way in found.equities}
    assert ways["highest third so far"] > ways["all signals"] + 0.2
    assert ways["sized by score"] > ways["all signals"]


def test_noise_is_called_no_evidence(noise: Evaluation) -> None:
    assert noise.verdict.decision is Decision.REJECT
    assert noise.words.startswith("There is no evidence of skill")
    line = next(line for line in noise.figures if line.name == "AUC")
    assert line.found.low < 0.5 < line.found.high


def test_every_prediction_is_of_a_model_that_knew_nothing_of_it(noise: Evaluation) -> None:
    for window in noise.windows:
        assert window.train_to_us < window.start_us
    starts = [window.start_us for window in noise.windows]
    assert starts == sorted(set(starts))
    assert sum(window.test_rows for window in noise.windows) == len(noise.walk)


def test_what_matters_out_of_sample_comes_first(skilled: tuple[LearningInstallation, Evaluation]) -> None:
    _, found = skilled
    # The six informative features were moved to the front, the strongest first.
    assert {item.name for item in found.importance[:2]} <= {"x00", "x01", "x02"}
    assert found.importance[0].low > 0.0


def test_the_challenger_is_compared_on_the_signals_both_scored(
    skilled: tuple[LearningInstallation, Evaluation],
) -> None:
    _, found = skilled
    together, alone = found.shadow
    assert (together.first, together.second, together.rows, alone.rows) == ("served", "all challengers", 450, 450)
    assert together.words == "better beyond chance: all challengers"
    assert (together.margin, together.margin_low) == (alone.margin, alone.margin_low)
    assert found.served is not None
    assert len(found.served) == 450


def test_signals_without_an_outcome_are_told(tmp_path: Path) -> None:
    world = narrow(independent(400, np.random.default_rng(6)), 8)
    installation = learning_installation(tmp_path, world)
    model = fitted(columns=8)
    installation.registry.register(model)
    rows = [
        PredictionRow(f"s{i:06d}", model.model_id, utc_text(NOW), 0.2 + 0.6 * (i % 2), 0.0, 0.0) for i in range(400)
    ]
    installation.db.scores.log_predictions(rows)
    # The lower half of scores never gets an outcome.
    installation.db._connection.run(
        "UPDATE feature_vectors SET target_r_multiple = NULL, target_binary = NULL, label_time = NULL"
        " WHERE signal_id IN (SELECT signal_id FROM prediction_log WHERE quality_score < 0.5) AND id % 3 <> 0"
    )
    found = evaluated(installation).coverage
    assert found is not None
    assert found.without_outcome > 100
    assert found.rates[0] < 0.5 < 0.99 < found.rates[2]
    assert found.auc > 0.7


def test_a_store_with_too_little_in_it_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TooFewSamples):
        evaluated(learning_installation(tmp_path))


class Page(HTMLParser):
    """Tags, links and open elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(skilled: tuple[LearningInstallation, Evaluation]) -> None:
    _, found = skilled
    text = html(found)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.tags.count("svg") == 8
    assert "script" not in page.tags
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"url\((?!#)", text)
    assert "nan" not in re.sub(r"<[^>]*>", " ", text).lower().split()
    assert found.words in unescape(text)


def test_the_page_escapes_what_producers_name(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path, narrow(independent(400, np.random.default_rng(6)), 8))
    installation.db._connection.run("UPDATE feature_vectors SET signal_type = '<script>alert(1)</script>'")
    text = html(evaluated(installation))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_picture_is_a_picture(noise: Evaluation) -> None:
    assert png(noise, dpi=40).startswith(b"\x89PNG")


def test_figures_are_plain_for_json(noise: Evaluation) -> None:
    document = json.loads(json.dumps(plain(noise), allow_nan=False))
    assert document["decision"] == "reject"
    assert set(document["figures"]["walk_forward"]["AUC"]) == {"value", "low", "high", "without_skill"}


def test_bins_of_the_same_probability_are_one() -> None:
    bins = np.array([[0.4, 0.2, 10.0], [0.401, 0.4, 30.0], [0.5, 0.6, 20.0]])
    assert merged(bins) == pytest.approx(np.array([[0.40075, 0.35, 40.0], [0.5, 0.6, 20.0]]))


def test_a_figure_that_rounds_to_nothing_has_no_sign() -> None:
    assert number(-0.00001) == "0.000"
    assert number(-0.5, 1, sign=True) == "\N{MINUS SIGN}0.5"
    assert number(float("nan")) == "\N{EN DASH}"


def test_the_command_refuses_an_empty_store_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path))
    open_store(load_settings()).close()
    done = CliRunner().invoke(cli, ["evaluate", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "too_few_samples" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_virtual_outcomes_are_compared_and_change_no_figure_of_reported_ones(tmp_path: Path) -> None:
    world = narrow(independent(600, np.random.default_rng(9), kind="linear", auc=0.72), 8)
    installation = learning_installation(tmp_path, world)
    fill = replace(CONFIG, virtual_outcomes="fill", virtual_hold_days=10.0)
    version = labelling_rule(installation.db, fill).version("breakout", "equity")
    better = [
        VirtualOutcomeRow(f"s{i:06d}", float(world.r[i]) + 0.1, "time", text_from_us(int(world.known_us[i])), version)
        for i in range(600)
    ]
    installation.db.virtual_outcomes.put(better)
    replaced_by_virtual(installation.db, 150, fill, every=2)
    off, on = (
        evaluate(installation.db, config, names=installation.feature_names, feature_version=VERSION, clock=lambda: NOW)
        for config in (replace(fill, virtual_outcomes="off"), fill)
    )
    for found in (off, on):
        assert (found.virtual.rows, found.virtual.disagree) == (450, True)
        assert found.virtual.difference.value == pytest.approx(0.1)
        assert found.rows == 450
        assert "virtual less reported R is +0.100" in html(found)
    assert off.virtual_words == ""
    assert "learned from 450 reported and 150 virtual outcomes" in on.virtual_words
    assert set(on.walk.signal_ids.tolist()) <= {f"s{i:06d}" for i in range(600)}
    assert len(on.walk) <= 450
    assert "which disagree" in html(on)
    assert plain(on)["virtual"]["rows"] == 450
    assert plain(on)["virtual"]["difference"]["low"] > 0
    installation.db.close()


def test_a_pause_that_leaves_the_next_training_little_is_on_the_page_and_in_the_json(noise: Evaluation) -> None:
    assert noise.pause_words == ""
    assert plain(noise)["pause"] is None
    assert "The next training sees less" not in html(noise)
    paused = replace(noise, pause_words="no trade closed between 2023-05-01 and 2026-01-02")
    assert plain(paused)["pause"] == paused.pause_words
    assert "No trade closed between 2023-05-01 and 2026-01-02." in html(paused)


def labels_over_each_other(draw: Draw, evaluation: Evaluation, width: float, height: float) -> list[str]:
    """Pairs of an axis's labels that cover each other where the chart is drawn at this size."""
    with mpl.rc_context(charts.style()):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        draw(axes, evaluation)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        found = []
        for axis in (axes.xaxis, axes.yaxis):
            shown = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
            boxes = [(label.get_text(), label.get_window_extent(canvas.get_renderer())) for label in shown]
            found += [f"{a} | {b}" for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
        plot = axes.get_window_extent(canvas.get_renderer())
        if plot.width < 0.4 * figure.bbox.width:
            found.append(f"{draw.__name__}: {plot.width / figure.bbox.width:.0%} of the width is left to the plot")
    return found


@pytest.mark.parametrize("width", [4.2, 6.4])
def test_no_labels_of_an_axis_cover_each_other(
    skilled: tuple[LearningInstallation, Evaluation], noise: Evaluation, width: float
) -> None:
    for evaluation in (skilled[1], noise):
        name = "a desk's very own kind of signal number {} of many"
        long = [replace(group, name=name.format(n)) for n, group in enumerate(evaluation.groups)]
        hard = replace(evaluation, groups=tuple(long))
        by_time = (charts.timeline, charts.gains, charts.equity)
        for draw in (*by_time, charts.reliability, charts.deciles, charts.kinds, charts.importance):
            rows = {charts.kinds: len(hard.groups), charts.importance: min(14, len(hard.importance))}.get(draw)
            height = 3.4 if rows is None else 0.9 + 0.26 * rows
            assert labels_over_each_other(draw, hard, width, height) == [], draw.__name__
