"""What became of stream entries: the question that the worker asks before it decides on one a second time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from trading_system.ml_refinement.storage.connection import Connection, id_list

#: (stream, entry id)
EntryKey = tuple[str, str]


class Entries:
    """Every table that an entry can have come to rest in, by entry id."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def dead_lettered(self, entries: Sequence[EntryKey]) -> dict[EntryKey, bytes]:
        """Those that are dead letters, whatever became of these, with the bytes they were dead-lettered with."""
        by_stream: dict[str, list[str]] = {}
        for stream, entry_id in entries:
            by_stream.setdefault(stream, []).append(entry_id)
        return {
            (stream, entry_id): payload
            for stream, ids in by_stream.items()
            for entry_id, payload in self._connection.query(DEAD_LETTER, (id_list(ids), stream))
        }

    def duplicates(self, entries: Sequence[EntryKey]) -> set[EntryKey]:
        """Those that were noted as duplicates."""
        return {(row[0], row[1]) for row in self._connection.query(DUPLICATES, (_pairs(entries),))}

    def stored_signals(self, entry_ids: Iterable[str]) -> set[str]:
        """Those that brought a stored signal."""
        return {row[0] for row in self._connection.query(SIGNALS, (id_list(entry_ids),))}

    def stored_outcomes(self, entry_ids: Iterable[str]) -> set[str]:
        """Those that brought a stored outcome."""
        return {row[0] for row in self._connection.query(OUTCOMES, (id_list(entry_ids),))}


def _pairs(entries: Sequence[EntryKey]) -> str:
    return orjson.dumps(entries).decode()


DEAD_LETTER = """
    SELECT d.entry_id, d.payload FROM json_each(?) AS wanted
    CROSS JOIN dead_letters AS d ON d.stream = ? AND d.entry_id = wanted.value"""
DUPLICATES = """
    SELECT d.stream, d.entry_id FROM json_each(?) AS wanted
    CROSS JOIN duplicate_events AS d ON d.stream = wanted.value ->> 0 AND d.entry_id = wanted.value ->> 1"""
SIGNALS = """
    SELECT v.entry_id FROM json_each(?) AS wanted
    CROSS JOIN feature_vectors AS v ON v.entry_id = wanted.value"""
OUTCOMES = """
    SELECT o.entry_id FROM json_each(?) AS wanted
    CROSS JOIN trade_outcomes AS o ON o.entry_id = wanted.value"""
