"""Sessions that every replica of a console knows which has the same secret: the signed cookie says whose they are."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import orjson
import redis
from loguru import logger

from worker.console.access.keys import Keys
from worker.console.access.sessions import LIFETIME_S, Clock, Visitor

_SIGNED_OUT: Final = "refinery:console:signed-out:"
_MOST_CLOSED: Final = 10_000


class SharedSessions:
    """As `Sessions`, where what a browser holds tells the visitor; the cookie around it is signed.

    A session ends after `LIFETIME_S`, with the password that opened it, and when it is closed: Redis tells the other
    replicas. While Redis is away they do not learn of it.

    Args:
        keys: of this console.
        signing: the secrets of the cookie, the one that signs first.
        client: of the server that all replicas have.
        clock: seconds since the epoch.
    """

    def __init__(self, keys: Keys, signing: Sequence[str], client: redis.Redis, clock: Clock = time.time) -> None:
        self._keys = keys
        self._signing = signing
        self._client = client
        self._clock = clock
        self._closed: OrderedDict[str, None] = OrderedDict()

    def open(self, visitor: Visitor) -> str:
        """A session for whoever has just signed in, as the cookie is to hold it."""
        mark = self._keys.mark(visitor, self._signing[0])
        until = self._clock() + LIFETIME_S
        return orjson.dumps([secrets.token_urlsafe(24), visitor.role, visitor.name, mark, until]).decode()

    def visitor(self, held: object) -> Visitor | None:
        """Whose session it is; None when there is none (any more). `held` comes from a cookie of ours."""
        try:
            name, role, user, mark, until = orjson.loads(str(held))
        except (orjson.JSONDecodeError, ValueError, TypeError):
            return None  # of a console without the secret
        visitor = Visitor(role, user)
        marks = {self._keys.mark(visitor, secret) for secret in self._signing} - {""}
        if self._clock() >= until or mark not in marks:
            return None
        return None if self._is_closed(name) else visitor

    def close(self, held: object) -> None:
        """End a session, for every browser that holds it and on every replica."""
        try:
            name = orjson.loads(str(held))[0]
        except (orjson.JSONDecodeError, ValueError, TypeError, IndexError):
            return
        self._closed[name] = None
        while len(self._closed) > _MOST_CLOSED:
            self._closed.popitem(last=False)
        try:
            self._client.set(_SIGNED_OUT + name, 1, ex=int(LIFETIME_S))
        except redis.RedisError as error:
            logger.warning("other consoles could not be told that somebody signed out: {}", error)

    def _is_closed(self, name: str) -> bool:
        if name in self._closed:
            return True
        try:
            return bool(self._client.exists(_SIGNED_OUT + name))
        except redis.RedisError:
            return False  # the console has to show that Redis is away
