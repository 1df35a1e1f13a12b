"""Which installation handles the streams: kept in Redis for each stream and group, and compared with our own store.

Two stores behind one group would each get a part of the events. So a store's id is written beside each stream that it
handles, and another one is refused until it adopts the streams on purpose. A copy of a store has the same id: what
tells them apart is the place, which is held only while it works, and expires soon after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from loguru import logger

from worker.errors import AnotherInstallation, CopyAtWork
from worker.streams.errors import translated

#: How often it is looked whether the streams are still ours, and how long a place counts as working without a word.
CHECK_EVERY_S = 60.0
LEASE_S = 180.0
_MOST_BYTES = 2048
_MOST_SHOWN = 120
_ADOPT = "`refinery adopt` has this one handle them from here on"


@dataclass(frozen=True, slots=True)
class Owner:
    """An installation: its store's id, and for people the host and the directory that it was last seen in."""

    installation: str
    host: str
    state_dir: str

    def __str__(self) -> str:
        return f"{self.state_dir[:_MOST_SHOWN]} on {self.host[:_MOST_SHOWN]}"

    def packed(self) -> bytes:
        """As it stands in Redis."""
        return json.dumps({"id": self.installation, "host": self.host, "state_dir": self.state_dir}).encode()


def owner_of(client: redis.Redis, stream: str, group: str) -> Owner | None:
    """Who handles a stream in a group; None where nobody has yet, or this user may not see it.

    What cannot be read is an owner without an id.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        try:
            return _owner(client, _key("owner", stream, group))
        except redis.exceptions.NoPermissionError:
            return None


class Ownership:
    """What this installation handles.

    Args:
        client: a client that does not retry.
        streams: the input streams.
        group: the consumer group.
        me: this installation.
        place: of this state directory, another one in each copy of it.
    """

    def __init__(self, client: redis.Redis, streams: Sequence[str], group: str, *, me: Owner, place: str) -> None:
        self._client = client
        self._streams = sorted(streams)  # two that start at once ask for the same one first
        self._group = group
        self._me = me
        self._place = place.encode()
        self._due = 0.0
        self._may_not = False

    def check(self) -> None:
        """Take what nobody handles, and see that all of it is ours.

        Raises:
            AnotherInstallation: another one handles a stream.
            CopyAtWork: a copy of this store works on them.
            TransientError: Redis is away.
        """
        self._due = time.monotonic() + CHECK_EVERY_S
        with translated():
            try:
                for stream in self._streams:
                    self._check(stream)
            except redis.exceptions.NoPermissionError as error:
                if not self._may_not:
                    logger.warning("whether another installation handles the same streams cannot be seen: {}", error)
                self._may_not = True

    def check_if_due(self) -> None:
        """`check`, once a minute."""
        if time.monotonic() >= self._due:
            self.check()

    def adopt(self) -> list[Owner]:
        """Have this installation handle the streams, whoever did; the other installations that did.

        Raises:
            TransientError: Redis is away.
        """
        before = []
        with translated():
            for stream in self._streams:
                other = _owner(self._client, _key("owner", stream, self._group))
                if other is not None and other.installation != self._me.installation and other not in before:
                    before.append(other)
                self._client.set(_key("owner", stream, self._group), self._me.packed())
                self._client.delete(_key("place", stream, self._group))
        return before

    def release(self) -> None:
        """Say that nobody works at this place any more, so that a moved directory need not wait.

        Raises:
            TransientError: Redis is away.
        """
        with translated():
            for stream in self._streams:
                key = _key("place", stream, self._group)
                if self._client.get(key) == self._place:
                    self._client.delete(key)

    def _check(self, stream: str) -> None:
        key, place = _key("owner", stream, self._group), _key("place", stream, self._group)
        other = _owner(self._client, key)
        if other is None:
            self._client.set(key, self._me.packed(), nx=True)
            other = _owner(self._client, key)
        if other is not None and other.installation != self._me.installation:
            who = f"another installation ({other})" if other.installation else f"what {key} holds, which is unreadable,"
            raise AnotherInstallation(
                f"{stream} is handled in group {self._group} by {who}: "
                f"give this one streams or a group of its own, or REFINERY_STATE_DIR of that one; {_ADOPT}"
            )
        self._client.set(place, self._place, nx=True, px=int(LEASE_S * 1000))
        if self._client.get(place) != self._place:
            raise CopyAtWork(
                f"{stream} is handled in group {self._group} by a copy of this store ({other}): stop that one, and "
                f"this one begins {LEASE_S:.0f} s after it was last seen; {_ADOPT}"
            )
        self._client.pexpire(place, int(LEASE_S * 1000))
        if other != self._me:
            self._client.set(key, self._me.packed())


def _key(what: str, stream: str, group: str) -> str:
    return f"refinery:{what}:{group}@{stream}"


def _owner(client: redis.Redis, key: str) -> Owner | None:
    try:
        raw: Any = client.getrange(key, 0, _MOST_BYTES)
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        return Owner("", "?", key)
    if not raw:
        return None
    try:
        said = json.loads(raw)
        return Owner(str(said["id"]), str(said["host"]), str(said["state_dir"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Owner("", "?", key)
