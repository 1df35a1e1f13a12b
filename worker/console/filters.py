"""Figures, times and payloads as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Flask
from jinja2 import Undefined
from markupsafe import Markup, escape

from trading_system.ml_refinement.storage import TrainingRun
from trading_system.ml_refinement.training.verdicts import entry_in_words, model_in_words, run_in_words
from worker.console.zones import OFFERED, viewer_zone, zone_name
from worker.observability.printable import printable

#: Longer lists of a payload are shown by their ends; longer payloads are cut.
_SHOWN_ITEMS = 6
SHOWN_CHARACTERS = 20_000
#: Of a larger payload the beginning is shown as it is: parsed it may take a hundred times its bytes.
MOST_PARSED_BYTES = 1024 * 1024
#: An older newest label is worth a word, and so is one that lies so far ahead.
_YEAR_S = 365.25 * 86_400
_LONG_AGO_S, _AHEAD_S = _YEAR_S, 3600.0


def register(flask: Flask) -> None:
    """Make these the filters of the templates."""
    flask.jinja_env.filters.update(
        ago=ago, age=age, clock=clock, count=count, figure=figure, signed=signed, percent=percent, mib=mib
    )
    flask.jinja_env.filters.update(model_words=model_in_words, run_words=run_words, entry_words=entry_in_words)
    flask.jinja_env.filters["as_it_is"] = as_it_is
    flask.jinja_env.globals.update(tone=tone, label_warning=label_warning, zone_name=zone_name, zones_offered=OFFERED)


def visible(value: Any) -> Any:
    """What a template inserts: of plain text, whatever is no visible sign, blank or line end is written out."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(sign if sign in "\n\t" else printable(sign) for sign in value)


def as_it_is(value: str | None) -> Markup:
    """Text that a form sends back: escaped, and otherwise to the letter."""
    return escape(value or "")


def span(seconds: float) -> str:
    """A length of time in its two largest sensible units."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 86_400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86_400:,.0f} d"


def age_s(text: str) -> float:
    """Seconds since an instant."""
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def age(text: str | None) -> str:
    """How old something is."""
    return "none yet" if text is None else span(age_s(text))


def ago(text: str | None) -> str:
    """How long ago something was."""
    return "never" if text is None else f"{span(age_s(text))} ago"


def clock(text: str | None) -> str:
    """A short time in the viewer's zone; the year only when it is another."""
    if text is None:
        return "—"
    zone = viewer_zone()
    at = datetime.fromisoformat(text).astimezone(zone)
    today = datetime.now(zone)
    if at.date() == today.date():
        return f"today {at:%H:%M:%S}"
    return f"{at.day} {at:%b %H:%M}" if at.year == today.year else f"{at.day} {at:%b %Y}"


def count(value: float | None) -> str:
    """A whole number, or that it is not known."""
    return "unknown" if value is None else f"{value:,.0f}"


def figure(value: Any, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    if value is None or isinstance(value, Undefined) or (isinstance(value, float) and not math.isfinite(value)):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        whole = value == int(value) and abs(value) >= 10
        return (f"{value:,.0f}" if whole else f"{value:.{digits}f}").replace("-", "\N{MINUS SIGN}")
    return f"{value:,}" if isinstance(value, int) else str(value)


def signed(value: float | None, digits: int = 2) -> str:
    """A figure with its sign."""
    if value is None or not math.isfinite(value):
        return "—"
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def label_warning(newest: str | None) -> str | None:
    """What is strange about the time of the newest label; None where nothing is."""
    if newest is None:
        return None
    old_s = age_s(newest)
    when = datetime.fromisoformat(newest).astimezone(viewer_zone())
    said = f"The newest outcome is of {when.day} {when:%b %Y}"
    if old_s < -_AHEAD_S:
        ahead = f"{said}, {span(-old_s)} ahead of this machine's clock"
        return f"{ahead}: windows and ages are counted from it. Compare the clocks."
    if old_s > _LONG_AGO_S:
        return (
            f"{said}, {old_s / _YEAR_S:.1f} years ago: what is shown and learned is of that time. "
            "After a demo or an import it is as it should be; otherwise a clock is wrong, or the tracker is silent."
        )
    return None


def percent(value: float | None) -> str:
    """A share in percent."""
    return "—" if value is None or not math.isfinite(value) else f"{value:.0%}"


def mib(value: float) -> str:
    """A size."""
    return f"{value / 2**20:,.1f} MiB" if value >= 2**19 else f"{value / 1024:,.0f} KiB"


def run_words(run: TrainingRun) -> list[str]:
    """How a training ended: the gate's answer, and how the candidate serves, each by itself."""
    return run_in_words(run).split(": ")


_TONES = {
    "promoted": "good",
    "proven": "good",
    "serves provisionally": "warn",
    "proof ended": "bad",
    "applied": "good",
    "failed": "bad",
    "discarded": "bad",
    "open": "warn",
    "running": "warn",
    "lookahead": "bad",
    "handler_error": "bad",
    "payload_lost": "bad",
    "identity_conflict": "bad",
    "outcome_conflict": "bad",
}


def tone(word: str | None, otherwise: str = "") -> str:
    """The colour of a word that is shown as a tag."""
    return _TONES.get(word or "", otherwise)


def pretty(payload: bytes | None) -> tuple[str, bool]:
    """A payload as it is shown, and whether that is less than all of it."""
    if not payload:
        return "", False
    if len(payload) > MOST_PARSED_BYTES:
        return payload[:SHOWN_CHARACTERS].decode("utf-8", "backslashreplace"), True
    try:
        whole = orjson.loads(payload)
        short = _shortened(whole)
        shown = orjson.dumps(short, option=orjson.OPT_INDENT_2).decode()
        cut = len(orjson.dumps(whole)) > len(orjson.dumps(short))
    except (orjson.JSONDecodeError, RecursionError, TypeError):
        shown, cut = payload.decode("utf-8", "backslashreplace"), False
    return (shown[:SHOWN_CHARACTERS], True) if len(shown) > SHOWN_CHARACTERS else (shown, cut)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        if len(value) > _SHOWN_ITEMS:
            return [*map(_shortened, value[:2]), f"… {len(value) - 4:,} more …", *map(_shortened, value[-2:])]
        return [_shortened(item) for item in value]
    return value
