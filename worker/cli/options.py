"""What several commands share: options and what the shell completes of them, how groups answer to -h, and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trading_system.ml_refinement.storage import FeatureDatabase
    from worker.settings.schema import Settings

#: So many ids are offered to a shell.
_MOST_IDS = 50
#: Of every group of commands.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def reason_code(text: str | None) -> str | None:
    """An option's text that is a reason of dead letters, refused where there is no such reason.

    Raises:
        typer.BadParameter: with those that there are.
    """
    from worker.errors import Reason  # few commands are asked for a reason

    if text is not None and text not in set(Reason):
        raise typer.BadParameter(f"there is no reason {text!r}; there are {', '.join(Reason)}")
    return text


def given(**values: Any) -> dict[str, Any]:
    """The options that were given, as settings."""
    return {name: value for name, value in values.items() if value is not None}


def moment(text: str | None) -> str | None:
    """An option's text that bounds a time, refused where it is none.

    Raises:
        typer.BadParameter: it is neither a date nor a time.
    """
    from trading_system.ml_refinement.storage.times import parse_bound  # few commands are asked for a time

    try:
        if text:
            parse_bound(text, end=False)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; say it as 2026-03-01 or 2026-03-01T14:00:00Z") from error
    return text


def _port(name: str, what: str) -> Any:
    variable = f"REFINERY_{name.upper().replace('-', '_')}"
    return typer.Option(f"--{name}", min=0, max=65535, help=f"{what}; 0: none; else {variable}.", show_default=False)


StateDir = Annotated[
    Path | None,
    typer.Option(help="Directory of store, models and embedded server; else REFINERY_STATE_DIR.", show_default=False),
]
ConsolePort = Annotated[int | None, _port("console-port", "Port of the console")]
MetricsPort = Annotated[int | None, _port("metrics-port", "Port of the worker's metrics")]
TrainerMetricsPort = Annotated[int | None, _port("trainer-metrics-port", "Port of the trainer's metrics")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def settings_and_log(**overrides: Any) -> Settings:
    """The settings of this process, with the log set up by them.

    Args:
        overrides: settings that an option gives, by name.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    # Whoever asks for help or completes a word has no use for settings, which take long to load.
    from worker.observability.logging import set_up_logging
    from worker.settings.schema import load_settings

    settings = load_settings(**overrides)
    set_up_logging(settings)
    return settings


def complete_reasons(incomplete: str) -> list[str]:
    """Reason codes of dead letters."""
    from worker.errors import Reason  # only where a word is completed

    return [reason.value for reason in Reason if reason.value.startswith(incomplete)]


def complete_letter_ids(incomplete: str) -> list[tuple[str, str]]:
    """Numbers of open dead letters, the newest first, with their reasons."""
    found: list[tuple[str, str]] = []
    with _store_to_complete_from() as store:
        if store is not None:
            newest = store.dead_letters.newest_id()
            rows = store.dead_letters.find(after_id=max(0, newest - 10 * _MOST_IDS), limit=10 * _MOST_IDS)
            found = [(str(row.id), row.reason) for row in reversed(rows) if str(row.id).startswith(incomplete)]
    return found[:_MOST_IDS]


def complete_model_ids(incomplete: str) -> list[str]:
    """Ids of the newest models, of every type."""
    found: list[str] = []
    with _store_to_complete_from() as store:
        if store is not None:
            found = [row.model_id for row in store.models.history(limit=_MOST_IDS)]
    return [model_id for model_id in found if model_id.startswith(incomplete)]


@contextmanager
def _store_to_complete_from() -> Iterator[FeatureDatabase | None]:
    """The store where there is one that can be read now; whatever is wrong with it, a shell is not told."""
    from worker.installation import open_store  # with settings, which take long to load
    from worker.settings.schema import load_settings

    store = None
    with suppress(Exception):
        settings = load_settings()
        if settings.store_is_there:
            store = open_store(settings, read_only=True)
    try:
        with suppress(Exception):
            yield store
    finally:
        if store is not None:
            store.close()
