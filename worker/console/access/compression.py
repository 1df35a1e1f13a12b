"""Text is sent compressed, and what never changes is kept by browsers.

A page's length tells something of what is in it, so whoever can have a victim's browser ask for pages with words of his
own, and sees the encrypted answers, learns a secret in them sign by sign (BREACH). Two things prevent it: the session's
cookie is `SameSite=Strict`, so other sites get pages without data; and the one secret in pages, the CSRF token, is
masked anew in each (`masked`).
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response, request

#: A shorter answer fits in a packet as it is.
_LEAST_BYTES: Final = 1_000
#: The highest level takes twice as long for a page, and saves a hundredth of its size.
_LEVEL: Final = 5
_TEXTS: Final = ("application/json", "application/javascript", "image/svg+xml")
_A_YEAR_S: Final = 31_536_000


def register(flask: Flask) -> None:
    """Compress the answers of every route, and give static files addresses that change with what is in them."""
    digests = {path.name: _digest(path) for path in Path(flask.static_folder or "").glob("*")}

    @flask.url_defaults
    def _of_this_release(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static" and values.get("filename") in digests:
            values["v"] = digests[values["filename"]]

    @flask.after_request
    def _sent(response: Response) -> Response:
        if request.endpoint == "static" and response.status_code in (200, 304):
            named = str((request.view_args or {}).get("filename"))
            if request.args.get("v") == digests.get(named):
                response.cache_control.no_cache = None
                response.cache_control.public = True
                response.cache_control.max_age = _A_YEAR_S
                response.cache_control.immutable = True
        return _compressed(response)


def masked(token: str) -> str:
    """The token in a form that no two pages share."""
    secret = token.encode()
    pad = secrets.token_bytes(len(secret))
    return urlsafe_b64encode(pad + _xor(pad, secret)).decode()


def unmasked(sent: str) -> str:
    """The token that `masked` has hidden; empty where it is none."""
    try:
        data = urlsafe_b64decode(sent.encode("ascii"))
        return _xor(data[: len(data) // 2], data[len(data) // 2 :]).decode("ascii")
    except ValueError:
        return ""


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _compressed(response: Response) -> Response:
    """The answer compressed, where it is text of some length that is there whole, and the browser takes it."""
    kind = response.mimetype or ""
    is_text = kind.startswith("text/") or kind in _TEXTS
    if not is_text or response.status_code != 200 or (response.is_streamed and not response.direct_passthrough):
        return response
    response.vary.add("Accept-Encoding")
    if "Content-Encoding" in response.headers or not request.accept_encodings["gzip"]:
        return response
    response.direct_passthrough = False
    data = response.get_data()
    if len(data) < _LEAST_BYTES:
        return response
    response.set_data(gzip.compress(data, _LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"
    tag, _ = response.get_etag()
    if tag:
        response.set_etag(f"{tag}-gzip")  # another sequence of bytes than the file's own
        response.make_conditional(request)
    return response
