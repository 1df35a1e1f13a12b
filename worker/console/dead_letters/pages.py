"""The pages of dead letters: every route here only reads."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Blueprint, Response, abort, current_app, render_template, request, stream_with_context
from flask.typing import ResponseReturnValue

from trading_system.ml_refinement.storage import DeadLetterRow, Filter, UnusableValue
from worker.console.dead_letters.audit import audit_difference, audit_words
from worker.console.dead_letters.listing import NEWEST, STATES, Listing, ListingPage
from worker.console.dead_letters.running import RunningAction, RunningActions
from worker.console.filters import pretty
from worker.console.queries import console_queries
from worker.dead_letters import DeadLetters, replay_helps, whole_letter
from worker.errors import Reason
from worker.installation import release, streams_of

blueprint = Blueprint("letters", __name__)

#: The command line has no such limit.
MOST_EXPORTED = 500
_MOST_CAUSES = 50
_COLUMNS = {"id": "Number", "last_seen": "Last failed", "signal_id": "Signal", "reason": "Reason", "attempts": "Tries"}


def running_actions() -> RunningActions:
    """Those of the application."""
    found: RunningActions = current_app.extensions["refinery.actions"]
    return found


@blueprint.get("/dead-letters")
def listing() -> ResponseReturnValue:
    """Dead letters by cause, and one by one."""
    asked = Listing.asked_for(request.args)
    store = console_queries().store
    try:
        newest = asked.newest(store)
        after, before = (request.args.get(name, type=int) for name in ("after", "before"))
        page = newest.page(store, after=after, before=before)
        total = store.dead_letters.count(newest.wanted)
        causes = store.dead_letters.groups(_MOST_CAUSES, newest.wanted)
    except UnusableValue as error:
        return _page(asked, ListingPage([], earlier=False, later=False), 0, [], wrong=str(error)), 400
    return _page(newest, page, total, causes)


def _page(asked: Listing, page: ListingPage, total: int, causes: list[Any], *, wrong: str = "") -> str:
    queries = console_queries()
    return render_template(
        "dead_letters.html",
        wrong=wrong,
        causes=causes,
        errors=queries.store.dead_letters.errors([cause.example_id for cause in causes]),
        page=page,
        total=total,
        most_looked_at=NEWEST if asked.wanted.above else None,
        asked=asked,
        wanted=asked.wanted,
        kept=asked.parameters(),
        back=urlencode(asked.parameters()),
        columns=_COLUMNS,
        states=STATES,
        helps=replay_helps,
        reasons=[reason.value for reason in Reason],
        streams=streams_of(queries.settings).inputs,
        audit=queries.store.dead_letters.recent_audit(),
        audit_words=audit_words,
        done=asked_action(),
    )


def asked_action() -> RunningAction | None:
    """The action that the page tells the end of."""
    return running_actions().get(request.args.get("done", ""))


def letter_or_404(number: int) -> DeadLetterRow:
    """The dead letter."""
    row = console_queries().store.dead_letters.get(number)
    if row is None:
        abort(404, f"There is no dead letter {number}.")
    return row


@blueprint.get("/dead-letters/<int:number>")
def letter(number: int) -> ResponseReturnValue:
    """One dead letter: reason, bytes, and what was done about it."""
    row = letter_or_404(number)
    shown, cut = pretty(row.payload)
    return render_template(
        "dead_letter.html",
        row=row,
        payload=shown,
        cut=cut,
        edited=pretty(row.edited)[0] if row.edited else None,
        about=next((reason.advice for reason in Reason if reason == row.reason), ""),
        helps=replay_helps(row.reason, edited=row.edited is not None),
        audit=console_queries().store.dead_letters.audit(number),
        audit_words=audit_words,
        audit_difference=audit_difference,
        again=console_queries().store.dead_letters.find(Filter(replay_of=number, status=None), limit=10),
        done=asked_action(),
    )


@blueprint.get("/dead-letters/export")
def export() -> ResponseReturnValue:
    """The chosen dead letters whole, a JSON line for each, as the command line writes them."""
    wanted = Listing.asked_for(request.args).wanted
    try:
        wanted.where()  # what is streamed has no page any more to say it on
    except UnusableValue:
        return listing()
    rows = DeadLetters(console_queries().store, version=release()).chosen([], wanted, limit=MOST_EXPORTED)
    lines = (orjson.dumps(whole_letter(row), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    headers = {"Content-Disposition": "attachment; filename=dead-letters.jsonl"}
    return Response(stream_with_context(lines), mimetype="application/x-ndjson", headers=headers)
