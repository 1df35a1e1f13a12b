"""What keeps streams and groups in order while they are used: dead consumers go, and what everyone has handled.

Each step that looks and then changes is one script, so that nothing can happen in between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from loguru import logger

from worker.streams.errors import translated


def remove_dead_consumers(
    client: redis.Redis, streams: Sequence[str], group: str, *, me: str, idle_ms: int
) -> list[str]:
    """Remove consumers that hold nothing and have not asked for anything for `idle_ms`; their names.

    A consumer with a pending entry is never removed: that would destroy the entry's place in the group.

    Raises:
        TransientError: Redis is away.
    """
    removed: set[str] = set()
    with translated():
        for stream in streams:
            try:
                names: Any = client.eval(_REMOVE_DEAD, 1, stream, group, me, str(idle_ms))
            except redis.ResponseError as error:
                if not _is_missing(error):
                    raise
                continue
            removed.update(name.decode() for name in names)
    if removed:
        logger.info("removed consumers that are gone and held nothing: {}", ", ".join(sorted(removed)))
    return sorted(removed)


def trim_handled(client: redis.Redis, streams: Sequence[str], *, older_than_s: float) -> int:
    """Drop entries that every group has acknowledged and that are older; how many.

    Nothing is dropped at or after the oldest pending entry of any group, or that any group has not read, or of a
    stream that no group reads.

    Raises:
        TransientError: Redis is away.
    """
    bound = f"{int((time.time() - older_than_s) * 1000)}-0"
    dropped = 0
    with translated():
        for stream in streams:
            try:
                gone: Any = client.eval(_TRIM, 1, stream, bound)
            except redis.ResponseError as error:
                if not _is_missing(error):
                    raise
                continue
            dropped += int(gone)
    if dropped:
        logger.info("dropped {} entries that every group has acknowledged", dropped)
    return dropped


def _is_missing(error: redis.ResponseError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)


_FIELDS = """
local function fields(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end
"""
_REMOVE_DEAD = (
    _FIELDS
    + """
local removed = {}
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = fields(flat)
    if consumer.name ~= ARGV[2] and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        removed[#removed + 1] = consumer.name
    end
end
return removed
"""
)
_TRIM = (
    _FIELDS
    + """
local function parts(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(seq)
end
local function lower(a, b)
    local a_ms, a_seq = parts(a)
    local b_ms, b_seq = parts(b)
    if a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq) then return a end
    return b
end
local bound, groups = ARGV[1], redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then return 0 end
for _, flat in ipairs(groups) do
    local group = fields(flat)
    local pending = redis.call('XPENDING', KEYS[1], group.name)
    if pending[1] > 0 then
        bound = lower(bound, pending[2])
    else
        local ms, seq = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
        bound = lower(bound, ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
    end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
"""
)
