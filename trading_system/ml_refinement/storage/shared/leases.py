"""What only one process may do at a time, for as long as it says that it lives: the table `leases`."""

from __future__ import annotations

from typing import NamedTuple

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.statement import Statement


class Lease(NamedTuple):
    """Who holds a lease. The token rises with each holder, so that it tells one from the next of the same name."""

    holder: str
    token: int
    until: str


class Leases:
    """The table `leases`. No clock but the database's is asked, so hosts need not agree about the time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take(self, name: str, holder: str, seconds: int, *, over: int | None = None) -> int | None:
        """Take a lease that is free or has run out: its token. None: somebody else has it.

        What has to be true before the new holder begins, write in the same transaction: from its commit on, what the
        last holder does is late.

        Args:
            name: of the lease.
            holder: who takes it.
            seconds: for how long, unless it is renewed.
            over: the token of a holder that is known to be dead, whose time is not waited for.
        """
        with self._connection.atomic():
            row = self._connection.one(TAKE, (name, holder, seconds, -1 if over is None else over))
        return None if row is None else int(row[0])

    def renew(self, name: str, token: int, seconds: int) -> bool:
        """Hold it for so long from now on. False: somebody has taken it since, or it was given back.

        One that has run out and that nobody has taken is held on.
        """
        with self._connection.atomic():
            return self._connection.run(RENEW, (seconds, name, token)) > 0

    def release(self, name: str, token: int) -> None:
        """Give it back; nothing is done where somebody else has it."""
        with self._connection.atomic():
            self._connection.run("UPDATE leases SET until = '' WHERE name = ? AND token = ?", (name, token))

    def holder_of(self, name: str) -> Lease | None:
        """Who holds it now, by the database's clock."""
        row = self._connection.one(HOLDER, (name,))
        return None if row is None else Lease(*row)


# The literals are ours alone; every value is bound.
#: The database's time as the store's text: now, and `?` seconds later.
_SQLITE = {
    "now": "(strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z')",
    "later": "(strftime('%Y-%m-%dT%H:%M:%f', 'now', '+' || ? || ' seconds') || '000Z')",
}
_TEXT = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
_SECONDS = "CAST(? AS double precision) * interval '1 second'"
_POSTGRES = {
    "now": f"to_char(clock_timestamp() AT TIME ZONE 'UTC', {_TEXT})",
    "later": f"to_char((clock_timestamp() + {_SECONDS}) AT TIME ZONE 'UTC', {_TEXT})",
}


def _by_its_clock(sql: str) -> Statement:
    return Statement(sql.format(**_SQLITE), postgres=sql.format(**_POSTGRES))


TAKE = _by_its_clock("""
    INSERT INTO leases (name, holder, token, until) VALUES (?, ?, 1, {later})
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = leases.token + 1, until = excluded.until
    WHERE leases.until <= {now} OR leases.token = ?
    RETURNING token""")
RENEW = _by_its_clock("UPDATE leases SET until = {later} WHERE name = ? AND token = ? AND until <> ''")
HOLDER = _by_its_clock("SELECT holder, token, until FROM leases WHERE name = ? AND until > {now}")
