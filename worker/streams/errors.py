"""The client's exceptions, cut by what the worker does about them, with the cause in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import TransientError

#: What an answer of the server means for whoever has to put it right, by its code.
_MEANINGS = {
    "NOPERM": "the user that REFINERY_REDIS_URL names lacks a right (deploy/redis/users.acl.example has them)",
    "NOAUTH": "it wants a password, and REFINERY_REDIS_URL has none",
    "WRONGPASS": "it refuses user or password of REFINERY_REDIS_URL: was the password changed?",
    "READONLY": "the server is a replica (it was demoted, or the address leads to one)",
    "UNBLOCKED": "the server was demoted, or its stream was deleted, while we waited for events",
    "WRONGTYPE": "a key of ours holds something else: rename or delete it, or name another stream",
    "CROSSSLOT": "this is a cluster: REFINERY_REDIS_URL names one as redis+cluster://host:6379,host2:6379",
    "MOVED": "this is a cluster: REFINERY_REDIS_URL names one as redis+cluster://host:6379,host2:6379",
    "MISCONF": "the server cannot write its own files: look at its disk",
    "OOM": "the server has used up its maxmemory: raise it, or let REFINERY_INPUT_RETENTION_HOURS drop handled events",
    "LOADING": "the server is still loading its data",
    "MASTERDOWN": "the server is a replica that has lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "NOMASTER": "a failover is under way, or REFINERY_REDIS_URL has the wrong sentinels or the wrong name",
    "NOREPLICAS": "too few replicas are there for a write",
    "NOGROUP": "the consumer group is gone",
    "BUSY": "the server runs somebody's script",
}
#: The code leads, or follows a dash within what is said of a script; the client drops that of some.
_CODE = re.compile(rf"(?:^|.*?[ :]-?)({'|'.join(_MEANINGS)})\b", re.DOTALL)
#: As servers say it within a script, where some leave the code out.
_NO_PERMISSION = re.compile(r"ACL failure|no permissions|can't (?:run this command|access)", re.IGNORECASE)
_OF_PIPELINE = re.compile(r"Command # \d+ .* of pipeline caused error: ", re.DOTALL)


def cause_of(error: Exception) -> str:
    """What an error of Redis or its client means, in a line that names what has to be put right."""
    said = _OF_PIPELINE.sub("", str(error))
    code = _code_of(error, said)
    meaning = _MEANINGS.get(code or "")
    return f"Redis cannot serve: {meaning}: {said}" if meaning else f"Redis does not answer as it should: {said}"


def _code_of(error: Exception, said: str) -> str | None:
    import redis  # here, because entries are known to commands that only look and load no client

    for kind, code in (
        (redis.exceptions.NoPermissionError, "NOPERM"),
        (redis.ReadOnlyError, "READONLY"),
        (redis.OutOfMemoryError, "OOM"),
        (redis.BusyLoadingError, "LOADING"),
        (redis.exceptions.MasterDownError, "MASTERDOWN"),
        (redis.exceptions.ClusterCrossSlotError, "CROSSSLOT"),
        (redis.exceptions.MovedError, "MOVED"),
        (redis.sentinel.MasterNotFoundError, "NOMASTER"),
    ):
        # Where sentinels are asked, the client puts an error of its own in the place of READONLY.
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return code
    if isinstance(error, redis.AuthenticationError):
        return "NOAUTH" if "NOAUTH" in said or "required" in said.lower() else "WRONGPASS"
    if _NO_PERMISSION.search(said):
        return "NOPERM"
    found = _CODE.match(said)
    return found.group(1) if found else None


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever the server or the way to it answers instead of a reply into `TransientError`, with its cause.

    An answer that nobody has thought of pauses like the known ones: what is wrong with a server is put right there.

    Raises:
        ReplyTooLarge: the server says more than is read at once.
        TransientError: the server cannot be reached, timed out, or does not do what it was asked.
    """
    import redis  # as above

    from worker.streams.replies import ReplyTooLarge  # the same

    try:
        yield
    except ReplyTooLarge:
        raise
    except (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.ResponseError,
        redis.InvalidResponse,
        redis.exceptions.ClusterError,
        redis.exceptions.RedisClusterException,
    ) as error:
        raise TransientError(cause_of(error)) from error
