"""The time zone that a viewer chose: pages show times in it, and take times in it where no offset is written."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import Blueprint, abort, current_app, has_request_context, redirect, request
from flask.typing import ResponseReturnValue

from trading_system.ml_refinement.storage.times import utc_text
from worker.console.access.security import inside

blueprint = Blueprint("zones", __name__)

UTC_NAME: Final = "UTC"
#: Offered in the list; any other name of the zone database can be written.
OFFERED: Final = (
    UTC_NAME,
    "Europe/London",
    "Europe/Zurich",
    "Europe/Berlin",
    "America/New_York",
    "America/Chicago",
    "America/Los_Angeles",
    "Asia/Singapore",
    "Asia/Hong_Kong",
    "Asia/Tokyo",
    "Australia/Sydney",
)
_KEPT_S = 365 * 86_400
_LONGEST = 64


def zone_name() -> str:
    """The name of the viewer's zone."""
    name = request.cookies.get(_cookie(), UTC_NAME) if has_request_context() else UTC_NAME
    return name if _zone(name) is not None else UTC_NAME


def viewer_zone() -> tzinfo:
    """The viewer's zone."""
    return _zone(zone_name()) or UTC


def bound_in_utc(text: str | None, *, end: bool) -> str | None:
    """A bound as a viewer wrote it, so that it says the same in UTC; what cannot be read stays, for others to refuse.

    A date alone means the whole day in the viewer's zone.
    """
    zone = viewer_zone()
    if not text or zone_name() == UTC_NAME:
        return text
    try:
        at = datetime.combine(date.fromisoformat(text), time.max if end else time.min)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return text
    try:
        return utc_text(at if at.tzinfo else at.replace(tzinfo=zone))
    except (ValueError, OverflowError):
        return text


@blueprint.post("/zone")
def choose() -> ResponseReturnValue:
    """Remember a zone in this browser. Changes nothing of the installation."""
    name = request.form.get("zone", "").strip()[:_LONGEST]
    if _zone(name) is None:
        abort(400, "There is no such time zone here. Names are as Europe/London; UTC is always there.")
    answer = redirect(inside(request.form.get("page", "")))
    secure = bool(current_app.config["SESSION_COOKIE_SECURE"])
    answer.set_cookie(_cookie(), name, max_age=_KEPT_S, httponly=True, samesite="Strict", secure=secure)
    return answer


def _cookie() -> str:
    return f"{current_app.config['SESSION_COOKIE_NAME']}-zone"


def _zone(name: str) -> tzinfo | None:
    if name == UTC_NAME:
        return UTC
    if not 0 < len(name) <= _LONGEST:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
