"""What operators change: every route here takes POST only, and does it through the code behind the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson
from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from loguru import logger

from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model_registry import model_before, roll_back
from trading_system.ml_refinement.storage import DeadLetterRow, FeatureDatabase
from worker.console.pages import console_queries, letter_filter, letter_or_404, model_or_404, model_type
from worker.console.security import actor, require_operator
from worker.dead_letters import DeadLetters
from worker.errors import DecodeError, RefineryError
from worker.events.strict_json import parse_line
from worker.installation import open_store, release

blueprint = Blueprint("actions", __name__)

#: At most this many dead letters are acted on at once; the command line has no such limit.
MOST_AT_ONCE = 1_000
#: A longer payload is not edited in a browser.
MOST_EDITABLE_BYTES = 256 * 1024
_SHOWN = 12


@blueprint.before_request
def _operators_only() -> None:
    require_operator()


@contextmanager
def _store() -> Iterator[FeatureDatabase]:
    """A connection that writes, for this one action."""
    with open_store(console_queries().settings) as store:
        yield store


def _chosen() -> list[DeadLetterRow]:
    """The open dead letters that the form or the address names, without their payloads: by number, or all that a filter
    lets through.
    """
    letters = console_queries().store.dead_letters
    numbers = request.values.getlist("id", type=int)
    if numbers:
        found = map(letters.get, numbers[:MOST_AT_ONCE])
        rows = [replace(row, payload=None, edited=None) for row in found if row is not None and row.status == "open"]
    elif request.values.get("every"):
        rows = letters.find(letter_filter(request.values), limit=MOST_AT_ONCE)
    else:
        rows = []
    if not rows:
        abort(400, "Choose at least one open dead letter.")
    return rows


@blueprint.get("/dead-letters/confirm")
def confirm() -> ResponseReturnValue:
    """What would be done, before it is done. Changes nothing."""
    action = request.args.get("action")
    if action not in ("replay", "discard"):
        abort(400, "There is no such action.")
    rows = _chosen()
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in ("action", "csrf_token")]
    return render_template(
        "confirm.html", action=action, rows=rows[:_SHOWN], total=len(rows), most=MOST_AT_ONCE, kept=kept
    )


@blueprint.post("/dead-letters/replay")
def replay() -> ResponseReturnValue:
    """Append the chosen dead letters to their streams again."""
    rows = _chosen()
    with _store() as store:
        letters = DeadLetters(store, version=release())
        chosen = letters.chosen([row.id for row in rows], None)
        done = letters.replay(console_queries().client, chosen, actor=actor())
    flash(f"{len(done.sent):,} of {len(rows):,} were sent to their streams again.")
    return redirect(url_for("pages.letters"))


@blueprint.post("/dead-letters/discard")
def discard() -> ResponseReturnValue:
    """Note that the chosen dead letters are not wanted, and why."""
    reason = request.form.get("why", "").strip()[:500]
    if not reason:
        abort(400, "Say why: the audit keeps it.")
    rows = _chosen()
    with _store() as store, store.atomic():
        done = DeadLetters(store, version=release()).discard(rows, reason, actor=actor())
    flash(f"{len(done):,} of {len(rows):,} were discarded.")
    return redirect(url_for("pages.letters"))


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
        edited = orjson.dumps(parse_line(text.encode("utf-8", "surrogatepass")))
    except DecodeError as error:
        return render_template("edit.html", row=row, text=text, wrong=f"That is not JSON: {error}"), 400
    with _store() as store:
        letters = DeadLetters(store, version=release())
        try:
            letters.edit(row, edited, actor=actor())
        except RefineryError as error:
            return render_template("edit.html", row=row, text=text, wrong=str(error)), 409
        if request.form.get("replay"):
            letters.replay(console_queries().client, letters.chosen([number], None), actor=actor())
    sent = " and sent to its stream again" if request.form.get("replay") else "; a replay sends it so"
    flash(f"Dead letter {number} was edited{sent}.")
    return redirect(url_for("pages.letter", number=number))


def _editable(row: DeadLetterRow) -> str:
    payload = row.edited or row.payload or b""
    if len(payload) > MOST_EDITABLE_BYTES:
        abort(413, "It is too long to be edited here: refinery dead-letters edit does it.")
    try:
        return orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return payload.decode("utf-8", "replace")


@blueprint.get("/models/<model_id>/activate")
def activate_form(model_id: str) -> ResponseReturnValue:
    """What activating would do. Changes nothing."""
    row = model_or_404(model_id)
    active = console_queries().store.models.active(row.metadata.model_type.value)
    return render_template("activate.html", row=row, active=active, rollback=False)


@blueprint.get("/models/rollback")
def rollback_form() -> ResponseReturnValue:
    """What rolling back would do. Changes nothing."""
    store, kind = console_queries().store, model_type()
    earlier = model_before(store, kind)
    if earlier is None:
        abort(409, "There is no model to roll back to.")
    active = store.models.active(kind.value)
    return render_template("activate.html", row=model_or_404(earlier), active=active, rollback=True)


@blueprint.post("/models/rollback")
def rollback() -> ResponseReturnValue:
    """Let the model that served before serve again, if the one that serves is still the one the operator saw."""
    settings, kind = console_queries().settings, model_type()
    with _store() as store:
        if store.models.active_id(kind.value) != request.form.get("active"):
            abort(409, "Another model serves by now than the one you saw.")
        registry = ModelRegistry.from_config(settings.to_ml_config(), store)
        _, now = roll_back(store, registry, kind, reason=_why(), actor=actor(), pin=_pinned())
    flash(f"{now} serves from the next batch on.")
    return redirect(url_for("pages.models"))


def _pinned() -> bool:
    return bool(request.form.get("pin"))


@blueprint.post("/models/<model_id>/unpin")
def unpin(model_id: str) -> ResponseReturnValue:
    """Let trainings replace a pinned model again, if it is still the one that the operator saw."""
    kind = model_or_404(model_id).metadata.model_type.value
    with _store() as store, store.atomic():
        pinned = store.models.pinned(kind)
        if pinned is None or pinned.model_id != model_id:
            abort(409, f"{model_id} is not pinned any more.")
        store.models.unpin(kind, reason="by hand", actor=actor())
    flash(f"{model_id} is not pinned any more: a training that passes the gate takes its place.")
    return redirect(url_for("pages.model", model_id=model_id))


def _why() -> str:
    return request.form.get("why", "").strip()[:500] or "no reason given"


@blueprint.post("/models/<model_id>/activate")
def activate(model_id: str) -> ResponseReturnValue:
    """Let a model serve, if the one that serves is still the one the operator saw.

    Raises:
        RefineryError: its file is refused.
    """
    settings = console_queries().settings
    why = _why()
    seen: Any = request.form.get("active") or None
    model_or_404(model_id)
    with _store() as store:
        registry = ModelRegistry.from_config(settings.to_ml_config(), store)
        try:
            registry.promote(model_id, reason=why, expected_active=seen, actor=actor(), pin=_pinned())
        except ModelFileRefused as error:
            raise RefineryError(f"{model_id} was not activated: {error}") from error
    logger.info("model {} was activated by {}: {}", model_id, actor(), why)
    flash(f"{model_id} serves from the next batch on.")
    return redirect(url_for("pages.models"))
