"""What `refinery doctor` looks at of a cluster of Redis: whether every slot has a server, and each one a replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import redis

from worker.installation import streams_of
from worker.observability.findings import Finding
from worker.observability.printable import counted
from worker.redis_server.connection import connect
from worker.settings.schema import Settings
from worker.streams.errors import translated

_SLOTS = 16_384


class _Server(NamedTuple):
    """What the others of a cluster say of one of its servers."""

    place: str
    node_id: str
    #: Of its primary; `-` where it is one.
    primary_id: str
    slots: frozenset[int]
    is_there: bool


def look_at_cluster(settings: Settings) -> Iterator[Finding]:
    """Whether a cluster serves all of its slots, and a failover is possible; nothing where the address is of none.

    Raises:
        TransientError: no server of it answers.
    """
    if not settings.on_cluster:
        return
    with connect(settings.redis_url or "") as client, translated():
        try:
            told: Any = client.cluster_nodes()
        except redis.exceptions.NoPermissionError as error:
            yield Finding("cluster", "warn", f"this user may not see it: {error}", "give it +cluster|nodes")
            return
    yield _of_servers([_read(place, said) for place, said in told.items()], settings)


def _read(place: str, said: Any) -> _Server:
    bounds = [(int(part[0]), int(part[-1])) for part in said["slots"]]
    slots = frozenset(slot for first, last in bounds for slot in range(first, last + 1))
    flags = set(said["flags"].split(","))
    is_there = not flags & {"fail", "fail?", "noaddr", "handshake"} and (said["connected"] or "myself" in flags)
    return _Server(place, said["node_id"], said["master_id"], slots, is_there)


def _of_servers(servers: Sequence[_Server], settings: Settings) -> Finding:
    primaries = [server for server in servers if server.slots]
    served = frozenset(slot for server in primaries if server.is_there for slot in server.slots)
    followed = {server.primary_id for server in servers if server.is_there}
    if len(served) < _SLOTS:
        gone = ", ".join(server.place for server in primaries if not server.is_there) or "nobody has them"
        says = f"{_SLOTS - len(served):,} of {_SLOTS:,} slots are not served ({gone}): {_waiting(served, settings)}"
        return Finding("cluster", "bad", says, "start that server, or have a replica take over: CLUSTER FAILOVER FORCE")
    says = f"{counted(len(primaries), 'server')} with all slots"
    if alone := [server.place for server in primaries if server.node_id not in followed]:
        advice = "a failover needs a replica of each"
        return Finding("cluster", "warn", f"{says}, without a replica: {', '.join(alone)}", advice)
    return Finding("cluster", "ok", f"{says}, each with a replica")


def _waiting(served: frozenset[int], settings: Settings) -> str:
    """Which shards are not served."""
    from redis.crc import key_slot  # with the client of clusters

    by_shard = enumerate(streams_of(settings).by_shard)
    away = [str(shard) for shard, streams in by_shard if key_slot(streams.signals_created.encode()) not in served]
    if not away:
        return "no shard is among them"
    return f"{'shard' if len(away) == 1 else 'shards'} {', '.join(away)} {'waits' if len(away) == 1 else 'wait'}"
