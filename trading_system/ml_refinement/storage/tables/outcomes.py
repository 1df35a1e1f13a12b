"""What happened to the trades: every revision is kept, the highest labels the vector and the predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Literal, NamedTuple

from trading_system.ml_refinement.storage.connection import Connection, Row, id_list
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import Clock, us_from_text, utc_text

#: applied: it labels its signal now. waiting: kept until its signal comes. superseded: kept, a higher revision stands.
#: redelivered: the same entry again. duplicate: another entry that says the same. conflict: the revision is known with
#: other content, nothing was stored. before_signal: closed before its signal was known, nothing was stored.
OutcomeResult = Literal["applied", "waiting", "superseded", "redelivered", "duplicate", "conflict", "before_signal"]


class OutcomeRow(NamedTuple):
    """One closed trade as reported. `closed_at` is the store's fixed-width text.

    `payload` is the event that said so, to the byte; it is kept only while the signal has not come.
    """

    signal_id: str
    revision: int
    closed_at: str
    r_multiple: float
    return_pct: float | None = None
    exit_reason: str | None = None
    entry_id: str | None = None
    payload: bytes | None = None

    @property
    def content(self) -> tuple[str, float, float | None, str | None]:
        """What two reports of one revision must agree on."""
        return self.closed_at, self.r_multiple, self.return_pct, self.exit_reason

    def check(self) -> None:
        """Raises ValueError unless the row may be stored."""
        us_from_text(self.closed_at)
        if not isfinite(self.r_multiple) or (self.return_pct is not None and not isfinite(self.return_pct)):
            raise ValueError(f"outcome of {self.signal_id!r} is not finite: {self.r_multiple}, {self.return_pct}")
        if self.revision < 0:
            raise ValueError(f"outcome of {self.signal_id!r} has a negative revision")


class Outcomes:
    """The table `trade_outcomes`, and the labels it gives."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def record(self, rows: Sequence[OutcomeRow]) -> list[OutcomeResult]:
        """Keep the outcomes and label what they belong to; one result for each row, in order.

        Raises:
            ValueError: a figure is not finite, or a time is not of the store's form; nothing was stored.
        """
        if not rows:
            return []
        for row in rows:
            row.check()
        now = utc_text(self._clock())
        with self._connection.atomic():
            known = _Known(self._connection, {row.signal_id for row in rows})
            results = [known.place(row) for row in rows]
            self._connection.write_rows(INSERT, [(*_columns(row), now) for row in known.fresh])
            if known.awaiting:
                self._connection.write_rows(
                    KEEP_PAYLOAD, [(r.signal_id, r.revision, r.payload) for r in known.awaiting]
                )
            self._label(known.labels.values(), now)
        return results

    def came_first(self, signal_ids: Sequence[str]) -> list[str]:
        """Those of the signals that have an outcome; asked right after they were stored, it came first."""
        if not signal_ids:
            return []
        return [signal_id for (signal_id,) in self._connection.query(CAME_FIRST, (id_list(signal_ids),))]

    def apply_waiting(self, signal_ids: Sequence[str]) -> list[str]:
        """Label those of the signals whose outcome came first; their ids. Belongs after `vectors.insert_new`."""
        with self._connection.atomic():
            waited = [OutcomeRow(*row) for row in self._connection.query(WAITING, (id_list(signal_ids),))]
            if not waited:
                return []
            highest = {row.signal_id: row for row in waited}
            self._label(highest.values(), utc_text(self._clock()))
            self._drop_payloads(waited)
        return list(highest)

    def take_before_signal(self, signal_ids: Sequence[str]) -> list[OutcomeRow]:
        """Remove and return the outcomes of these signals that closed before the signal was known.

        They could not be refused when they came first. Dead-letter them in the transaction that stored the
        signals. They have the payload they were recorded with; None for what no event said.
        """
        with self._connection.atomic():
            early = [OutcomeRow(*row) for row in self._connection.query(EARLY, (id_list(signal_ids),))]
            if not early:
                return []
            self._connection.run_many(
                "DELETE FROM trade_outcomes WHERE signal_id = ? AND revision = ?",
                [(row.signal_id, row.revision) for row in early],
            )
            self._drop_payloads(early)
        return early

    def correct(self, signal_id: str, r_multiple: float, return_pct: float | None, closed_at: str | None) -> bool:
        """Record an outcome without a revision of its own: as the next one, unless it says what stands already.

        Without `closed_at` the trade counts as closed now, or at its signal's time if that is later. True when the
        signal is there and is labelled with these figures now.
        """
        with self._connection.atomic():
            stamp = self._connection.one("SELECT timestamp FROM feature_vectors WHERE signal_id = ?", (signal_id,))
            last = self._connection.one(LAST, (signal_id,))
            if last is not None and _says_the_same(last, (r_multiple, return_pct, closed_at)):
                return stamp is not None
            closed = closed_at or max(utc_text(self._clock()), stamp[0] if stamp else "")
            revision = 0 if last is None else int(last[0]) + 1
            row = OutcomeRow(signal_id, revision, closed, float(r_multiple), return_pct)
            return self.record([row]) == ["applied"]

    def history(self, signal_id: str) -> list[OutcomeRow]:
        """Every revision that is kept, lowest first."""
        return [OutcomeRow(*row) for row in self._connection.query(HISTORY, (signal_id,))]

    def of_signals(self, signal_ids: Sequence[str]) -> list[OutcomeRow]:
        """Every revision that is kept of any of the signals."""
        return [OutcomeRow(*row) for row in self._connection.query(KEPT, (id_list(signal_ids),))] if signal_ids else []

    def _drop_payloads(self, rows: Sequence[OutcomeRow]) -> None:
        if rows:
            self._connection.run_many(DROP_PAYLOAD, [(row.signal_id, row.revision) for row in rows])

    def _label(self, rows: Iterable[OutcomeRow], now: str) -> None:
        """Write the outcomes into their vectors, and each prediction's own error."""
        rows = list(rows)
        self._connection.write_rows(
            LABEL,
            [
                (r.r_multiple, int(r.r_multiple > 0), r.return_pct, r.closed_at, r.revision, now, r.signal_id)
                for r in rows
            ],
        )
        self._connection.write_rows(ACTUAL, [(row.r_multiple, row.r_multiple, row.signal_id) for row in rows])


class _Known:
    """What the store holds about the signals of one batch, kept up to date while the batch is placed."""

    def __init__(self, connection: Connection, signal_ids: set[str]) -> None:
        ids = (id_list(signal_ids),)
        self._timestamps: dict[str, str] = dict(connection.query(TIMESTAMPS, ids))
        self._kept = {(row[0], row[1]): OutcomeRow(*row) for row in connection.query(KEPT, ids)}
        self._highest: dict[str, int] = {}
        for row in self._kept.values():
            if row.closed_at >= self._timestamps.get(row.signal_id, ""):
                self._highest[row.signal_id] = max(row.revision, self._highest.get(row.signal_id, 0))
        self.fresh: list[OutcomeRow] = []
        self.awaiting: list[OutcomeRow] = []
        self.labels: dict[str, OutcomeRow] = {}

    def place(self, row: OutcomeRow) -> OutcomeResult:
        kept = self._kept.get((row.signal_id, row.revision))
        if kept is not None:
            if kept.content != row.content:
                return "conflict"
            return "redelivered" if row.entry_id is not None and kept.entry_id == row.entry_id else "duplicate"
        timestamp = self._timestamps.get(row.signal_id)
        if timestamp is not None and row.closed_at < timestamp:
            return "before_signal"
        return self._keep(row, timestamp is not None)

    def _keep(self, row: OutcomeRow, signal_is_there: bool) -> OutcomeResult:
        self._kept[row.signal_id, row.revision] = row
        self.fresh.append(row)
        if not signal_is_there and row.payload is not None:
            self.awaiting.append(row)
        if row.revision < self._highest.get(row.signal_id, row.revision):
            return "superseded"
        self._highest[row.signal_id] = row.revision
        if not signal_is_there:
            return "waiting"
        self.labels[row.signal_id] = row
        return "applied"


_COLUMNS = "o.signal_id, o.revision, o.closed_at, o.r_multiple, o.return_pct, o.exit_reason, o.entry_id"
# The literals are ours alone; every value is bound.
TIMESTAMPS = """
    SELECT v.signal_id, v.timestamp
    FROM json_each(?) AS wanted CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value"""
KEPT = f"""
    SELECT {_COLUMNS} FROM json_each(?) AS wanted CROSS JOIN trade_outcomes AS o ON o.signal_id = wanted.value"""  # noqa: S608
CAME_FIRST = """
    SELECT wanted.value FROM json_each(?) AS wanted
    WHERE EXISTS (SELECT 1 FROM trade_outcomes AS o WHERE o.signal_id = wanted.value)"""
WAITING = f"""
    SELECT {_COLUMNS} FROM json_each(?) AS wanted
    CROSS JOIN trade_outcomes AS o ON o.signal_id = wanted.value
    CROSS JOIN feature_vectors AS v ON v.signal_id = o.signal_id
    WHERE o.closed_at >= v.timestamp AND (v.label_revision IS NULL OR o.revision > v.label_revision)
    ORDER BY o.revision"""  # noqa: S608
EARLY = f"""
    SELECT {_COLUMNS}, p.payload FROM json_each(?) AS wanted
    CROSS JOIN trade_outcomes AS o ON o.signal_id = wanted.value
    CROSS JOIN feature_vectors AS v ON v.signal_id = o.signal_id
    LEFT JOIN waiting_payloads AS p ON p.signal_id = o.signal_id AND p.revision = o.revision
    WHERE o.closed_at < v.timestamp"""  # noqa: S608
HISTORY = f"SELECT {_COLUMNS} FROM trade_outcomes AS o WHERE o.signal_id = ? ORDER BY o.revision"  # noqa: S608
LAST = """
    SELECT revision, r_multiple, return_pct, closed_at FROM trade_outcomes
    WHERE signal_id = ? ORDER BY revision DESC LIMIT 1"""
INSERT = """
    INSERT OR FAIL INTO trade_outcomes
        (signal_id, revision, closed_at, r_multiple, return_pct, exit_reason, entry_id, recorded_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
KEEP_PAYLOAD = "INSERT OR FAIL INTO waiting_payloads (signal_id, revision, payload) VALUES (?, ?, ?)"
DROP_PAYLOAD = "DELETE FROM waiting_payloads WHERE signal_id = ? AND revision = ?"
LABEL = Statement(
    """
    UPDATE OR FAIL feature_vectors
    SET target_r_multiple = ?, target_binary = ?, target_return_pct = ?, label_time = ?, label_revision = ?,
        updated_at = ?
    WHERE signal_id = ?""",
    postgres="""
    UPDATE feature_vectors AS v
    SET target_r_multiple = o.r, target_binary = o.won, target_return_pct = o.return_pct, label_time = o.closed_at,
        label_revision = o.revision, updated_at = o.now
    FROM unnest($1::double precision[], $2::integer[], $3::double precision[], $4::text[], $5::bigint[], $6::text[],
        $7::text[]) AS o (r, won, return_pct, closed_at, revision, now, signal_id)
    WHERE v.signal_id = o.signal_id""",
)
ACTUAL = Statement(
    "UPDATE OR FAIL prediction_log SET actual_r = ?, prediction_error = ? - predicted_r WHERE signal_id = ?",
    postgres="""
    UPDATE prediction_log AS p SET actual_r = o.r, prediction_error = o.again - p.predicted_r
    FROM unnest($1::double precision[], $2::double precision[], $3::text[]) AS o (r, again, signal_id)
    WHERE p.signal_id = o.signal_id""",
)


def _columns(row: OutcomeRow) -> Row:
    return row.signal_id, row.revision, row.closed_at, row.r_multiple, row.return_pct, row.exit_reason, row.entry_id


def _says_the_same(last: Row, report: tuple[float, float | None, str | None]) -> bool:
    """Whether a report (r_multiple, return_pct, closed_at; None where not given) adds nothing to the last revision."""
    return all(new is None or new == known for new, known in zip(report, last[1:], strict=True))
