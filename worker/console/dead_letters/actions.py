"""What operators do to dead letters: looked at on GET, done on POST, through the code behind the command line."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from trading_system.ml_refinement.storage import DeadLetterGroup, DeadLetterRow, Filter
from worker.console.access.security import actor, require_operator
from worker.console.dead_letters.listing import NEWEST, PAGE_ROWS, Listing
from worker.console.dead_letters.pages import letter_or_404, running_actions
from worker.console.dead_letters.running import RunningAction
from worker.console.queries import console_queries
from worker.dead_letters import DeadLetters, replay_helps
from worker.errors import DecodeError, RefineryError
from worker.events.decoding import EventKind, Limits, decode
from worker.events.strict_json import parse_line
from worker.installation import open_store, release
from worker.observability.printable import printable_json
from worker.streams.shards import plain_name

blueprint = Blueprint("letter_actions", __name__)

#: A longer payload is not edited in a browser.
MOST_EDITABLE_BYTES = 256 * 1024
_SHOWN = 12
#: An action that is over so soon is told whole on the next page, without a look again.
_WAITED_FOR_S = 1.5


@blueprint.before_request
def _operators_only() -> None:
    require_operator()


class Chosen(NamedTuple):
    """What a form or an address names: numbers, or all that a filter lets through; some of them, and how many."""

    what: list[int] | Filter
    shown: list[DeadLetterRow]
    total: int
    causes: list[DeadLetterGroup]


def _chosen() -> Chosen:
    """The open dead letters that are meant."""
    store = console_queries().store
    if request.values.get("every"):
        wanted = replace(Listing.asked_for(request.values).newest(store).wanted, status="open", up_to=_up_to())
        found = Chosen(
            wanted,
            store.dead_letters.page(wanted, limit=_SHOWN),
            store.dead_letters.count(wanted),
            store.dead_letters.groups(NEWEST, wanted),
        )
    else:
        named = map(store.dead_letters.get, request.values.getlist("id", type=int)[:PAGE_ROWS])
        rows = [replace(row, payload=None, edited=None) for row in named if row is not None and row.status == "open"]
        found = Chosen([row.id for row in rows], rows[:_SHOWN], len(rows), [])
    if not found.total:
        abort(400, "Choose at least one open dead letter.")
    return found


def _up_to() -> int:
    """The last one that was there when the operator looked: what came since was not meant."""
    return request.values.get("up_to", type=int) or console_queries().store.dead_letters.nth_newest(1, None)


@blueprint.get("/dead-letters/confirm")
def confirm() -> ResponseReturnValue:
    """What would be done, before it is done. Changes nothing."""
    action = request.args.get("action")
    if action not in ("replay", "discard"):
        abort(400, "There is no such action.")
    chosen = _chosen()
    reasons = {cause.reason for cause in chosen.causes} | {row.reason for row in chosen.shown}
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in ("action", "csrf_token")]
    if "every" in request.args and "up_to" not in request.args:
        kept.append(("up_to", str(_up_to())))
    return render_template(
        "confirm.html",
        action=action,
        rows=chosen.shown,
        total=chosen.total,
        hopeless=sorted(reason for reason in reasons if not replay_helps(reason)),
        kept=kept,
        cancel=_way_back(None),
    )


def _way_back(action: RunningAction | None) -> str:
    """Where the operator came from: the listing with its filter, or the one dead letter."""
    asked: dict[str, Any] = {"done": action.name} if action else {}
    single = request.values.get("letter", type=int)
    if single is not None:
        return url_for("letters.letter", number=single, **asked)
    asked |= Listing.remembered(request.values.get("back", "")).parameters()
    return url_for("letters.listing", **asked)


def _told(action: RunningAction) -> ResponseReturnValue:
    action.over.wait(_WAITED_FOR_S)
    return redirect(_way_back(action))


@blueprint.post("/dead-letters/replay")
def replay() -> ResponseReturnValue:
    """Append the chosen dead letters to their streams again."""
    chosen = _chosen()
    return _told(running_actions().replay(chosen.what, total=chosen.total, actor=actor()))


@blueprint.post("/dead-letters/discard")
def discard() -> ResponseReturnValue:
    """Note that the chosen dead letters are not wanted, and why."""
    reason = request.form.get("why", "").strip()[:500]
    if not reason:
        abort(400, "Say why: the audit keeps it.")
    chosen = _chosen()
    return _told(running_actions().discard(chosen.what, reason, total=chosen.total, actor=actor()))


@blueprint.get("/dead-letters/<int:number>/edit")
def edit_form(number: int) -> ResponseReturnValue:
    """The payload to change. Changes nothing."""
    row = letter_or_404(number)
    if row.status != "open":
        abort(409, "It is not open any more.")
    return render_template("edit.html", row=row, text=_editable(row), wrong=None)


@blueprint.post("/dead-letters/<int:number>/edit")
def edit(number: int) -> ResponseReturnValue:
    """Let replays of this dead letter send other bytes; with `replay`, send them now. The original stays."""
    row = letter_or_404(number)
    text = request.form.get("payload", "")
    try:
        edited = _checked(row, text)
    except DecodeError as error:
        wrong = f"A replay of this would die again, so it is not saved. {error.reason.value}: {error.detail}"
        return render_template("edit.html", row=row, text=text, wrong=wrong), 400
    with closing(open_store(console_queries().settings)) as store:
        try:
            DeadLetters(store, version=release()).edit(row, edited, actor=actor())
        except RefineryError as error:
            return render_template("edit.html", row=row, text=text, wrong=str(error)), 409
    if not request.form.get("replay"):
        flash(f"Dead letter {number} was edited; a replay sends it so.")
        return redirect(url_for("letters.letter", number=number))
    flash(f"Dead letter {number} was edited and sent to its stream again.")
    action = running_actions().replay([number], total=1, actor=actor())
    action.over.wait(_WAITED_FOR_S)
    return redirect(url_for("letters.letter", number=number, done=action.name))


def _checked(row: DeadLetterRow, text: str) -> bytes:
    """The edited event, on one line, as the worker's door would let it in.

    Raises:
        DecodeError: it would not.
    """
    settings = console_queries().settings
    edited = orjson.dumps(parse_line(text.encode("utf-8", "surrogatepass")))
    closed = settings.streams.trades_closed
    kind: EventKind = "trade.closed" if plain_name(row.stream) == closed else "signal.created"
    decode(kind, edited, now=datetime.now(UTC), limits=Limits.from_settings(settings))
    return edited


def _editable(row: DeadLetterRow) -> str:
    payload = row.edited or row.payload or b""
    if len(payload) > MOST_EDITABLE_BYTES:
        abort(413, "It is too long to be edited here: refinery dead-letters edit does it.")
    try:
        return printable_json(orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2).decode())
    except orjson.JSONDecodeError:
        return payload.decode("utf-8", "backslashreplace")
