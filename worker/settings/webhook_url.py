"""Which addresses notifications are posted to, how one is shown, and the key that they are signed with."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import urlsplit

_PRINTABLE = re.compile(r"[!-~]+")
#: How a secret begins whose rest is base64, as Standard Webhooks has it.
_BASE64 = "whsec_"


def check_webhook_url(url: str) -> None:
    """Refuse what is no address of a web server.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    if not _PRINTABLE.fullmatch(url):
        raise ValueError("must be printable ASCII without blanks: percent-encode other characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://host/path") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must begin with https:// or http://")
    if not host:
        raise ValueError("must name a host, as https://host/path")


def mask_webhook_url(url: str) -> str:
    """Scheme and host; everything else of such an address may be the secret that lets one post there."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "***"
    if parts.scheme not in {"http", "https"} or not host:
        return "***"
    named = f"[{host}]" if ":" in host else host
    rest = "" if parts.path in ("", "/") and not parts.query and not parts.fragment else "/***"
    return f"{parts.scheme}://{'***@' if '@' in parts.netloc else ''}{named}{f':{port}' if port else ''}{rest}"


def signing_key(secret: str) -> bytes:
    """The bytes of a secret.

    Raises:
        ValueError: it begins as base64 does, and is none.
    """
    if not secret.startswith(_BASE64):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_BASE64), validate=True)
    except binascii.Error:
        raise ValueError(f"must be base64 after {_BASE64}") from None
