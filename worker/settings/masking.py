"""Keeps credentials out of what is written: logs, and the one line that a failed command ends with."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from worker.settings.redis_url import SECRET_OPTION, sentinel_address

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]*(?:@[^\s/@'\"]*)*(?=@)")
#: A password that should have been percent-encoded, as one with `/`, is none the less a password.
_OF_REDIS = re.compile(r"(?<=redis://|ediss://|tinel://)[^\s'\"]*(?=@)")
_URL = re.compile(r"://[^\s'\"]+")
#: A shorter password would blacken half of every line, and is none.
_SHORTEST = 4


def masker(*urls: str | None) -> Callable[[str], str]:
    """A function that takes the credentials of any URL out of a text, and these URLs' passwords wherever they stand."""
    known = {form for url in urls if url is not None for form in _password(url)}
    words = sorted((word for word in known if len(word) >= _SHORTEST), key=len, reverse=True)

    def mask(text: str) -> str:
        text = _CREDENTIALS.sub("***", _OF_REDIS.sub("***", text))
        text = _URL.sub(lambda url: SECRET_OPTION.sub(r"\1***", url[0]), text)
        for word in words:
            text = text.replace(word, "***")
        return text

    return mask


def _password(url: str) -> tuple[str, ...]:
    """As it stands in the URL, and as it is meant; empty where there is none."""
    try:
        sentinels = sentinel_address(url)
        password = urlsplit(url if sentinels is None else sentinels.server_url).password
    except ValueError:
        return ()
    theirs = None if sentinels is None else sentinels.password
    return tuple(form for word in (password, theirs) if word is not None for form in (word, unquote(word)))
