"""Who is signed in, kept here and not in the cookie, and how fast an address may try passwords."""

from __future__ import annotations

import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

Role = Literal["viewer", "operator"]
Clock = Callable[[], float]

LIFETIME_S: Final = 12 * 3600.0
_MOST_SESSIONS = 1_000
#: Of an address: so many wrong passwords cost nothing, each further one doubles the wait, up to the longest.
FREE_TRIES: Final = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 300.0
#: After so long without one, an address begins afresh.
_FORGOTTEN_AFTER_S = 900.0
_MOST_ADDRESSES = 10_000


class Visitor(NamedTuple):
    """What one may do, and who one is; no name where a password is several people's."""

    role: Role
    name: str | None = None


class Sessions:
    """Visitors by the secret name that a signed-in browser holds; it is worth nothing once its session is closed."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._open: OrderedDict[str, tuple[Visitor, float]] = OrderedDict()
        self._turn = threading.Lock()

    def open(self, visitor: Visitor) -> str:
        """A session for whoever has just signed in; its name."""
        name = secrets.token_urlsafe(32)
        with self._turn:
            self._open[name] = (visitor, self._clock() + LIFETIME_S)
            while len(self._open) > _MOST_SESSIONS:
                self._open.popitem(last=False)
        return name

    def visitor(self, name: object) -> Visitor | None:
        """Whose session it is; None when there is none (any more)."""
        with self._turn:
            visitor, until = self._open.get(str(name), (None, 0.0))
        return visitor if self._clock() < until else None

    def close(self, name: object) -> None:
        """End a session, for every browser that holds its name."""
        with self._turn:
            self._open.pop(str(name), None)


class SignInTries:
    """Wrong passwords by address, with growing waits; who tries from one address locks nobody out at another."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._turn = threading.Lock()

    def wait_s(self, address: str) -> float:
        """How long this address has to wait before its next try."""
        with self._turn:
            count, last = self._failed.get(_network(address), (0, 0.0))
        if count < FREE_TRIES:
            return 0.0
        wait = min(_FIRST_WAIT_S * 2.0 ** min(count - FREE_TRIES, 16), _LONGEST_WAIT_S)
        return max(0.0, last + wait - self._clock())

    def failed(self, address: str) -> None:
        """A wrong password from this address."""
        now, key = self._clock(), _network(address)
        with self._turn:
            count, last = self._failed.pop(key, (0, now))
            self._failed[key] = (1 if now - last > _FORGOTTEN_AFTER_S else count + 1, now)
            while len(self._failed) > _MOST_ADDRESSES:
                self._failed.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Who knows the password begins afresh."""
        with self._turn:
            self._failed.pop(_network(address), None)


def _network(address: str) -> str:
    """What one party holds: an IPv4 address, or the half of an IPv6 address that it is given as one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)
