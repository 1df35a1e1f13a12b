"""The AsyncAPI 3 document of the events, made from the models that the door and the publisher use."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from worker.events.models import json_schema
from worker.settings.schema import StreamSettings

_KINDS = {
    "signal.created": ("signals_created", "receive", "A signal generator proposes a trade."),
    "trade.closed": ("trades_closed", "receive", "A position tracker tells what became of one."),
    "signal.scored": ("signals_scored", "send", "The worker says what its models make of a signal."),
}


def document(streams: StreamSettings) -> dict[str, Any]:
    """The document. Each channel is a Redis stream; a message is the JSON in its entries' one field, `data`."""
    channels, operations, messages = {}, {}, {}
    for kind, (setting, action, summary) in _KINDS.items():
        name = _camel(kind)
        channels[name] = {
            "address": getattr(streams, setting),
            "title": summary,
            "description": "A Redis stream: XADD with one field, data. Delivered at least once, applied exactly once.",
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        operations[f"{action}{name[0].upper()}{name[1:]}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": summary,
            "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        }
        schema = json_schema(kind)
        messages[name] = {
            "name": kind,
            "title": kind,
            "contentType": "application/json",
            "payload": {
                "schemaFormat": "application/schema+json;version=draft-2020-12",
                "schema": _local(schema, name),
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Signal Refinery",
            "version": version("signal-refinery"),
            "description": "Signals in, outcomes in, scores out. docs/events.md says what a schema cannot.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"redis": {"host": "localhost:6379", "protocol": "redis", "description": "Redis or Valkey."}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _camel(kind: str) -> str:
    first, second = kind.split(".")
    return first + second.capitalize()


def _local(value: Any, message: str) -> Any:
    """References made to hold inside the larger document."""
    if isinstance(value, dict):
        return {
            key: f"#/components/messages/{message}/payload/schema{item[1:]}" if key == "$ref" else _local(item, message)
            for key, item in value.items()
        }
    return [_local(item, message) for item in value] if isinstance(value, list) else value
