"""What is measured of failovers happens: workers as they are installed bring back what was lost, and nobody helps."""

from __future__ import annotations

from tests.faults.failover_times import run
from tests.support.postgres_server import needs_postgres

pytestmark = needs_postgres


def test_workers_as_they_are_installed_bring_back_what_an_asynchronous_failover_lost() -> None:
    (failover,) = run(1, known=30, lost=7, seed=1)
    assert failover.lost == 7
    assert 0 < failover.since_promotion_s < failover.since_end_s
