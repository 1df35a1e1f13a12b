"""The commands about learning: `retrain`, `evaluate`, `explain`, `tune`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from trading_system.ml_refinement.config import MLConfig, ModelType, TrainingConfig
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import us_from_text, utc_now, utc_text
from trading_system.ml_refinement.training.verdicts import standing_in_words
from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.errors import RefineryError
from worker.installation import existing_store
from worker.observability.terminal import Table
from worker.settings.schema import load_settings

if TYPE_CHECKING:
    from trading_system.ml_refinement.evaluation.evaluate import Evaluation


def evaluate(
    out: Annotated[
        Path, typer.Option("--out", help="Directory for evaluation.html and evaluation.png; made if missing.")
    ] = Path(),
    cost: Annotated[float, typer.Option(min=0.0, max=1.0, help="Cost of a trade in R.")] = 0.05,
    settings_now: Annotated[
        bool, typer.Option("--settings", help="Walk forward with the settings of now, not those of the last training.")
    ] = False,
    json: Json = False,
) -> None:
    """Report on the store and what serves: walk-forward, calibration, lift, worth, and whether there is skill.

    Nothing is changed or registered. It fits one model for each step of the past, which may take minutes.

    \f
    Raises:
        RefineryError: an extra is missing, or the files cannot be written.
    """
    try:
        from worker.report.page import html  # with matplotlib, an extra, and the learning stack
        from worker.report.picture import png
    except ModuleNotFoundError as error:
        raise RefineryError(f"the report needs {error.name}: install the extra `report`") from error
    found = _evaluated(cost, settings_now=settings_now)
    try:
        out.mkdir(parents=True, exist_ok=True)
        page, picture = out / "evaluation.html", out / "evaluation.png"
        page.write_text(html(found), encoding="utf-8")
        picture.write_bytes(png(found))
    except OSError as error:
        raise RefineryError(f"{out}: {error.strerror or error}") from error
    if json:
        output.document(_fields(found) | {"html": str(page), "png": str(picture)})
        return
    output.line(found.words)
    output.line(f"of what serves: {standing_in_words(found.standing)}")
    if found.pause_words:
        output.line(f"of the next training: {found.pause_words}")
    if found.virtual_words:
        output.line(f"{found.virtual_words}; {found.virtual.words}")
    _show(found)
    output.line(f"{page} and {picture}")


def explain(
    signal_id: str,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many features to show.")] = 10,
    json: Json = False,
) -> None:
    """Say which features moved a signal's score, by how much, and how such signals ended before."""
    from trading_system.ml_refinement.evaluation.explain import explain as explained  # loads the learning stack
    from trading_system.ml_refinement.models import ModelRegistry

    settings = load_settings()
    with _learning() as (store, _, _, _):
        found = explained(store, ModelRegistry.from_config(settings.to_ml_config(), store), signal_id)
    if json:
        output.document(asdict(found))
        return
    output.line(
        f"{found.signal_id} at {found.timestamp}: P(win) {found.score:.3f} by {found.model_id}, "
        f"which knew a base rate of {found.base_rate:.3f}"
    )
    if not found.reproduced:
        output.note("the vector was rebuilt since: what follows is the model's opinion of the vector as it is now")
    table = Table("feature", "value", "typical", "moved P(win) by", "adds in log-odds", box=None, header_style="dim")
    for move in found.moves[:top]:
        table.add_row(
            move.name, f"{move.value:.4g}", f"{move.typical:.4g}", f"{move.moved:+.4f}", f"{move.columns:+.4f}"
        )
    output.table(table, empty="no feature moved it: the model serves its base rate")
    if found.type_adds:
        output.line(f"being of type {found.signal_type} adds {found.type_adds:+.4f} in log-odds by itself")
    earlier = found.earlier
    if earlier.count:
        output.line(
            f"the {earlier.count} closed signals with the nearest scores before it ({earlier.lowest_score:.3f} to "
            f"{earlier.highest_score:.3f}): {earlier.win_rate:.0%} won, mean {earlier.mean_r:+.2f} R"
        )
    else:
        output.line("no scored signal had closed before it")
    output.line("its own trade has not closed" if found.actual_r is None else f"it ended at {found.actual_r:+.2f} R")


def tune(
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Settings to try in all, earlier calls included.")] = 40,
    seconds: Annotated[float, typer.Option(min=1.0, help="No trial is begun after so long.")] = 600.0,
    json: Json = False,
) -> None:
    """Look for better parameters of the recipe, on what closed before the gate's evidence begins.

    End it whenever you like: the next call goes on. Nothing serves otherwise for it. Every setting tried is stored, and
    the gate makes a new recipe pay for all of them.

    \f
    Raises:
        RefineryError: the extra is missing.
    """
    from trading_system.ml_refinement.training.dataset import read_dataset  # loads the learning stack
    from trading_system.ml_refinement.training.tuning import tune as search

    journal = load_settings().state_dir / "tuning.log"
    with _learning() as (store, config, names, version), output.fraction("tuning", unit="trials") as told:
        now_us = us_from_text(utc_text(utc_now()))
        data = read_dataset(store, names=names, feature_version=version, now_us=now_us)
        try:
            found = search(
                store, data, config, journal=journal, clock=utc_now, trials=trials, seconds=seconds, progress=told
            )
        except ModuleNotFoundError as error:
            raise RefineryError(f"tuning needs {error.name}: install the extra `tuning`") from error
    if json:
        output.document(asdict(found) | {"better": found.better})
        return
    about = {name: value for name, value in asdict(found).items() if name not in ("best", "window_digest")}
    output.pairs(about)
    if not found.better:
        output.line("no setting was better than the one you have: keep it")
        return
    best = orjson.dumps(found.best).decode()
    output.line("to train with the best from now on, which the gate will judge as a new recipe:")
    output.line(f"REFINERY_ML__TRAINING__HYPERPARAMETERS='{best}'")


def _evaluated(cost: float, *, settings_now: bool) -> Evaluation:
    from trading_system.ml_refinement.evaluation.evaluate import evaluate as measured  # loads the learning stack

    with _learning() as (store, config, names, version):
        chosen = config if settings_now else as_last_trained(store, config)
        with output.fraction("walking forward", unit="windows") as told:
            return measured(
                store, chosen, names=names, feature_version=version, clock=utc_now, cost_r=cost, progress=told
            )


@contextmanager
def _learning() -> Iterator[tuple[FeatureDatabase, MLConfig, tuple[str, ...], str]]:
    """The open store, what is configured, and the features; refusals of learning become one line."""
    from trading_system.ml_refinement.models.errors import LearningError  # loads the learning stack
    from worker.installation import feature_pipeline

    settings = settings_and_log()
    pipeline = feature_pipeline(settings)
    try:
        with existing_store(settings) as store:
            yield store, settings.to_ml_config(), pipeline.names, pipeline.feature_version
    except LearningError as error:
        raise RefineryError(f"{error.reason}: {error}") from error


def as_last_trained(store: FeatureDatabase, config: MLConfig) -> MLConfig:
    """The configuration with the training settings of the last training that succeeded; as given without one."""
    run = store.runs.last(ModelType.SIGNAL_QUALITY, "completed")
    told: Any = run.config.get("training") if run is not None else None
    if not isinstance(told, dict):
        return config
    known = {name: value for name, value in told.items() if name in TrainingConfig.__dataclass_fields__}
    return replace(config, training=TrainingConfig(**known))


def _show(found: Evaluation) -> None:
    from worker.report.formatting import figure_rows  # loads the learning stack

    table = Table("figure", "walk-forward [95 %]", "without skill", box=None, header_style="dim")
    for row in figure_rows(found):
        table.add_row(*row)
    output.table(table)


def _fields(found: Evaluation) -> dict[str, Any]:
    from worker.report.formatting import plain  # loads the learning stack

    return plain(found)


def retrain(
    wait: Annotated[bool, typer.Option("--wait", help="Follow the training to its end.")] = False,
    json: Json = False,
) -> None:
    """Enqueue a retraining now, due or not.

    \f
    Raises:
        typer.Exit: the training failed, with code 1.
    """
    from worker.retraining.requests import retrain_now  # loads rq

    result = retrain_now(settings_and_log(), wait=wait)
    if json:
        output.document(result)
    else:
        told = result.get("words")
        plain = {name: value for name, value in result.items() if name not in ("verdict", "serves", "words")}
        plain.pop("trainers", None)
        output.pairs(plain | ({"ended": told} if told else {}))
        if result.get("trainers") == 0:
            output.note("no trainer is running: the job waits for one; `refinery trainer`")
    if result.get("status") == "failed":
        raise typer.Exit(1)
