"""Passwords of the console's named users, kept as hashes: scrypt, with a salt of its own for each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

#: A shorter password can be guessed.
SHORTEST_PASSWORD: Final = 12

#: 16 MiB and some 50 ms a try; the parameters stand in each hash, so that they can grow.
_N, _R, _P = 2**14, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_MEMORY = 64 * 1024 * 1024
_FORM = re.compile(r"scrypt:(\d{1,7}):(\d{1,2}):(\d{1,2}):([A-Za-z0-9_-]{22}):([A-Za-z0-9_-]{43})")


def hash_password(password: str) -> str:
    """What the settings keep of a password; without signs that a shell or a file of variables would change."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"scrypt:{_N}:{_R}:{_P}:{_text(salt)}:{_text(_scrypt(password, salt, _N, _R, _P))}"


def is_password_hash(text: str) -> bool:
    """Whether this is what `hash_password` makes, with parameters that can be worked with."""
    found = _FORM.fullmatch(text)
    if found is None:
        return False
    n, r, p = (int(found[at]) for at in (1, 2, 3))
    return n > 1 and n & (n - 1) == 0 and r > 0 and 0 < p <= 16 and 128 * n * r < _MOST_MEMORY


def password_matches(password: str, hashed: str) -> bool:
    """Whether the hash is this password's."""
    if not is_password_hash(hashed):
        return False
    _, n, r, p, salt, wanted = hashed.split(":")
    given = _scrypt(password, _bytes(salt), int(n), int(r), int(p))
    return hmac.compare_digest(given, _bytes(wanted))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=2 * _MOST_MEMORY, dklen=_HASH_BYTES)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
