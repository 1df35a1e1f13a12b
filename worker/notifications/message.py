"""A notification as it is posted: one line of JSON, and the headers that say whose it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from collections.abc import Mapping
from typing import Any

import orjson

from trading_system.ml_refinement.standing import IN_WORDS, NotProven
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.notifications.table import Notification
from worker.settings.schema import NotifySettings
from worker.settings.webhook_url import signing_key

#: Of what `refinery notify --test` sends; no notification of the store has it.
TEST = "test"
_VERSION = 1
#: A reason may quote a trace; the whole of it is in the store.
_MOST_TEXT = 500


def body(notification: Notification, settings: NotifySettings, *, installation: str) -> bytes:
    """The JSON object, on one line and without a line end.

    Args:
        notification: what it tells.
        settings: its name for this installation.
        installation: the store's id.
    """
    name = settings.name or socket.gethostname()
    document = {
        "version": _VERSION,
        "id": notification.message_id,
        "kind": notification.kind,
        "at": notification.at,
        "name": name,
        "installation": installation,
        "text": f"{name}: {in_words(notification.kind, notification.details)}",
        "details": notification.details,
    }
    return orjson.dumps(document)


def headers(message_id: str, content: bytes, settings: NotifySettings, *, now_s: int) -> dict[str, str]:
    """The headers beside the body, as Standard Webhooks names them; signed where there is a secret.

    Args:
        message_id: the same at every try.
        content: the body.
        settings: the secret.
        now_s: seconds since 1970, at this try.
    """
    named = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(now_s)}
    if settings.secret is not None:
        key = signing_key(settings.secret.get_secret_value())
        named["webhook-signature"] = f"v1,{signature(key, message_id, now_s, content)}"
    return named


def signature(key: bytes, message_id: str, timestamp_s: int, content: bytes) -> str:
    """HMAC-SHA256 over id, timestamp and body, in base64."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp_s, content)
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def in_words(kind: str, details: Mapping[str, Any]) -> str:
    """What happened, in a line for people."""
    told = " ".join(_told(kind, details).split())
    return told if len(told) <= _MOST_TEXT else f"{told[: _MOST_TEXT - 3]}..."


def _told(kind: str, details: Mapping[str, Any]) -> str:
    model, before, why = (details.get(name) for name in ("model_id", "previous_model_id", "reason"))
    role = "proven" if details.get("proven") else "provisional"
    match kind:
        case Occasion.PROOF_GAINED:
            return f"{model} serves and is proven: {why}"
        case Occasion.PROOF_ENDED:
            return f"the proof of {model} has ended{_code(details)}: {why}; it serves provisionally and moves nothing"
        case Occasion.DEMOTION if model is None:
            return f"{before} was taken out of service, and nothing of its kind serves: {why}"
        case Occasion.DEMOTION if model == before:
            return f"{model} is not proven any more{_code(details)}: {why}"
        case Occasion.DEMOTION:
            return (
                f"{model}, provisional, serves in the place of the proven {before} (by {details.get('actor')}): {why}"
            )
        case Occasion.ROLLBACK:
            return f"{details.get('actor')} rolled back from {before} to {model}, {role}: {why}"
        case Occasion.ALARM:
            return f"alarm {str(details.get('alarm')).replace('_', ' ')}: {why}"
        case Occasion.DEAD_LETTER_BURST:
            reasons = ", ".join(f"{number} {reason}" for reason, number in details.get("reasons", {}).items())
            return (
                f"{details.get('letters')} events were dead-lettered within {details.get('minutes')} minutes: {reasons}"
            )
        case Occasion.TRAINING_FAILED:
            return f"training {details.get('run_id')} failed, and what served serves on: {why}"
        case _:
            return str(why)


def _code(details: Mapping[str, Any]) -> str:
    code = details.get("reason_code")
    return f" ({IN_WORDS[NotProven(code)]})" if code in set(NotProven) else ""
