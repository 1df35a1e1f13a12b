"""The command about who is told of what happens: `notify`."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Annotated

import typer

from trading_system.ml_refinement.storage.times import utc_now, utc_text
from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.cli.status import notified_in_words
from worker.errors import ConfigurationError, RefineryError
from worker.installation import no_store, open_for_looking, open_store
from worker.settings.schema import Settings


def notify(
    test: Annotated[bool, typer.Option("--test", help="Send one now, and say what came back.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most so many.")] = 20,
    json: Json = False,
) -> None:
    """Show the newest notifications and what came of them; with --test, send one.

    \f
    Raises:
        ConfigurationError: there is no address to send one to.
        RefineryError: the one that was sent was not taken.
    """
    settings = settings_and_log()
    if test:
        _send_one(settings, json=json)
        return
    from worker.notifications.message import in_words  # with the codes of the ledger
    from worker.observability.status import read_notified  # the same

    with open_for_looking(settings) as store:
        found, newest = read_notified(settings, store), store.notifications.recent(limit)
    if json:
        rows = [asdict(one) | {"text": in_words(one.kind, one.details)} for one in newest]
        output.document({"notifications": asdict(found), "newest": rows})
        return
    table = output.new_table("at", "kind", "state", "tries", "says", box=None, pad_edge=False, header_style="dim")
    for one in newest:
        says, state = in_words(one.kind, one.details), one.state.replace("_", " ")
        said = f"{says} ({one.error})" if one.error else says
        table.add_row(one.at[:19], one.kind, state, str(one.attempts), said)
    output.table(table, empty="nothing to tell of has happened yet")
    output.line(notified_in_words(found))


def _send_one(settings: Settings, *, json: bool) -> None:
    from trading_system.ml_refinement.storage.notifications.table import Notification  # with the store's driver
    from worker.notifications.message import TEST  # with the rest of what sends
    from worker.notifications.sender import send  # the same

    if settings.notify.url is None:
        raise ConfigurationError("REFINERY_NOTIFY__URL is not set: there is nobody to tell; docs/notifications.md")
    now = utc_now()
    at, message_id = utc_text(now), f"msg_{secrets.token_hex(16)}"
    details = {"reason": "a test: whoever reads this is told of what happens"}
    installation = ""
    if not no_store(settings):
        with open_store(settings) as store:
            installation = store.installation_id()
    one = Notification(0, message_id, at, TEST, details, "waiting", 0, at, None, None)
    answer = send(settings, one, installation=installation, now=now)
    to = settings.notify.masked_url
    if json:
        output.document(asdict(answer) | {"taken": answer.taken, "to": to, "id": message_id})
        if not answer.taken:
            raise typer.Exit(1)
        return
    if not answer.taken:
        raise RefineryError(f"{to} has not taken it: {answer.says}")
    signed = "" if settings.notify.secret is not None else "; unsigned, since REFINERY_NOTIFY__SECRET is not set"
    output.line(f"{to} answered {answer.says} after {answer.seconds:.2f} s{signed}")
