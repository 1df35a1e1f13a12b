"""What the market-data directories of workers hold that share a store: each worker says so in Redis, for a while.

A signal's features come from the files of whichever host took it. So hosts whose files differ have to be told of. Each
worker keeps one short line in a hash, and the digests of its files beside it, once for all workers that have the same.
Nothing of it is asked for by the loop, and what a worker said is gone soon after it has ended.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import orjson
import redis
from loguru import logger

from worker.errors import TransientError
from worker.market_data.contents import Contents, digest_of
from worker.settings.schema import Settings
from worker.streams.errors import translated
from worker.streams.lua import script

_TELL = script("tell_files")
_EVERY_S = 60.0
#: To look takes a fiftieth of the time at most, however large a directory is.
_REST_FOR_EACH = 50.0
#: What was said holds for so many rounds.
_HOLDS_ROUNDS = 3


class HostsFiles(NamedTuple):
    """The workers that have the same files, and the digest of each file by its name."""

    workers: tuple[str, ...]
    files: Mapping[str, str]


@contextmanager
def telling(settings: Settings, client: redis.Redis) -> Iterator[None]:
    """Where hosts can share the store, a thread says what this worker's directory holds while the block runs.

    Args:
        settings: of this process.
        client: of the thread alone; the loop drops its own connections when it pauses.
    """
    if settings.store_url is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_tell_until, args=(settings, client, stop), name="market-data", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)  # one that reads a large file ends with the process


def _tell_until(settings: Settings, client: redis.Redis, stop: threading.Event) -> None:
    contents = Contents(settings.market_data_dir)
    rest_s = 0.0
    while not stop.wait(rest_s):
        began = time.monotonic()
        try:
            files = contents.look()
            rest_s = max(_EVERY_S, _REST_FOR_EACH * (time.monotonic() - began))
            tell(settings, client, files, holds_s=_HOLDS_ROUNDS * rest_s)
        except (OSError, TransientError) as error:  # the loop waits for the same, and says so
            logger.debug("what market data there is cannot be told now: {}", error)
            rest_s = max(_EVERY_S, rest_s)


def tell(settings: Settings, client: redis.Redis, files: Mapping[str, str], *, holds_s: float) -> None:
    """Say that this worker has these files, for so long.

    Raises:
        TransientError: Redis is away.
    """
    packed = orjson.dumps({name.encode(errors="backslashreplace").decode(): said for name, said in files.items()})
    with translated():
        client.eval(_TELL, 1, _key(settings), settings.consumer, digest_of(files), packed, str(int(1000 * holds_s)))


def told(settings: Settings, client: redis.Redis) -> list[HostsFiles]:
    """The workers by what they have, those that most workers have first.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        workers = _workers(settings, client)
        lists: list[Any] = client.hmget(_key(settings), [f"files {digest}" for digest in workers]) if workers else []
    found = [
        HostsFiles(tuple(sorted(names)), _unpacked(packed))
        for names, packed in zip(workers.values(), lists, strict=True)
    ]
    return sorted(found, key=lambda one: (-len(one.workers), one.workers))


def count_different(settings: Settings, client: redis.Redis) -> int:
    """How many different contents the directories of workers have; 0 where no worker says.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        return len(_workers(settings, client))


def _workers(settings: Settings, client: redis.Redis) -> dict[str, list[str]]:
    """The names of the workers that say what they have now, by the digest of that."""
    seconds, micros = client.time()
    now_ms = 1000 * seconds + micros // 1000
    found: dict[str, list[str]] = defaultdict(list)
    rows: Any = client.hscan_iter(_key(settings), match="worker *", count=1000)
    for field, said in rows:
        till_ms, _, digest = said.decode(errors="replace").partition(" ")
        if till_ms.isdecimal() and int(till_ms) > now_ms:
            found[digest].append(field.decode(errors="backslashreplace").removeprefix("worker "))
    return dict(found)


def _unpacked(packed: bytes | None) -> dict[str, str]:
    """What a worker wrote; nothing where it is not as workers write it."""
    with suppress(orjson.JSONDecodeError):
        files = orjson.loads(packed or b"")
        if isinstance(files, dict):
            return {name: str(digest) for name, digest in files.items()}
    return {}


def _key(settings: Settings) -> str:
    return f"refinery:market-data:{settings.streams.group}@{settings.streams.signals_created}"
