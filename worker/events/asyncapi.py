"""The AsyncAPI 3 document of the events, made from the models that the door and the publisher use."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from worker.events.models import json_schema
from worker.settings.schema import StreamSettings
from worker.streams.shards import tag_of_shard

_KINDS = {
    "signal.created": ("signals_created", "receive", "A signal generator proposes a trade."),
    "trade.closed": ("trades_closed", "receive", "A position tracker tells what became of one."),
    "signal.scored": ("signals_scored", "send", "The worker says what its models make of a signal."),
}
_BY_SIGNAL = (
    "Which one: CRC16 (XMODEM, polynomial 0x1021, as Redis Cluster has it) of signal_id in UTF-8, modulo {shards}, "
    "is the number after the r. The braces are part of the stream's name."
)
_ANY = (
    "Each has the scores of its own signals: who reads the scores reads all of them. The braces are part of the name."
)


def document(streams: StreamSettings, *, shards: int = 1, on_cluster: bool = False) -> dict[str, Any]:
    """The document. Each channel is a Redis stream; a message is the JSON in its entries' one field, `data`.

    Args:
        streams: their names.
        shards: how many the installation has. With more than one a channel is a stream of each, and its address begins
            with the shard's.
        on_cluster: whether one shard has that too.
    """
    tags = [tag_of_shard(shard) for shard in range(shards)] if shards > 1 or on_cluster else []
    channels: dict[str, Any] = {}
    operations, messages = {}, {}
    for kind, (setting, action, summary) in _KINDS.items():
        name = _camel(kind)
        channels[name] = {
            "address": getattr(streams, setting),
            "title": summary,
            "description": "A Redis stream: XADD with one field, data. Delivered at least once, applied exactly once.",
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        if tags:
            how = _BY_SIGNAL.format(shards=shards) if action == "receive" else _ANY
            channels[name]["address"] = f"{{shard}}.{channels[name]['address']}"
            channels[name]["parameters"] = {"shard": {"description": how, "enum": tags}}
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
