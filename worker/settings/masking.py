"""Keeps credentials out of what is written: logs, and the one line that a failed command ends with."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from worker.settings.redis_url import SECRET_OPTION

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]*(?:@[^\s/@'\"]*)*(?=@)")
#: A password that should have been percent-encoded, as one with `/`, is none the less a password.
_OF_REDIS = re.compile(r"(?<=redis://|ediss://)[^\s'\"]*(?=@)")
_URL = re.compile(r"://[^\s'\"]+")
#: A shorter password would blacken half of every line, and is none.
_SHORTEST = 4


def masker(url: str | None) -> Callable[[str], str]:
    """A function that takes the credentials of any URL out of a text, and this URL's password wherever it stands."""
    password = None
    if url is not None:
        try:
            password = urlsplit(url).password
        except ValueError:
            password = None
    words = sorted({word for word in (password, password and unquote(password)) if word and len(word) >= _SHORTEST})

    def mask(text: str) -> str:
        text = _CREDENTIALS.sub("***", _OF_REDIS.sub("***", text))
        text = _URL.sub(lambda url: SECRET_OPTION.sub(r"\1***", url[0]), text)
        for word in words:
            text = text.replace(word, "***")
        return text

    return mask
