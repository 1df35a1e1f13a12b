"""What several commands share: the option `--json`, how every group answers to -h, and settings with their log."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.observability.logging import set_up_logging
from worker.settings.schema import Settings, load_settings

#: Of every group of commands.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def settings_and_log(**overrides: Any) -> Settings:
    """The settings of this process, with the log set up by them.

    Args:
        overrides: settings that an option gives, by name.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    settings = load_settings(**overrides)
    set_up_logging(settings)
    return settings
