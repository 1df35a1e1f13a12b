"""What several commands share: the option `--json`, how every group answers to -h, and settings with their log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worker.settings.schema import Settings

#: Of every group of commands.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


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
