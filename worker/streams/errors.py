"""The client's exceptions, cut by what the worker does about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import TransientError

#: Answers of a server that is there and cannot serve now, also from within a script, where older ones put theirs first;
#: every other error answer is a defect of ours.
_SERVER_SIDE = re.compile(
    r"(?:^|.* -)(?:LOADING|READONLY|OOM|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|BUSY)\b", re.DOTALL
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the client's exceptions for "the server is away or unwell" into `TransientError`.

    Raises:
        TransientError: the server cannot be reached, timed out, or says that it cannot serve now.
    """
    import redis  # here, because entries are known to commands that only look and load no client

    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    except redis.ResponseError as error:
        if _SERVER_SIDE.match(str(error)) or isinstance(error, (redis.ReadOnlyError, redis.OutOfMemoryError)):
            raise TransientError(f"Redis cannot serve: {error}") from error
        raise
