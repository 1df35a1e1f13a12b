"""A worker whose clock is hours off beside one whose clock is right: nothing is lost or double, no right is taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import redis

from tests.faults.fault_harness import work
from tests.faults.invariants import entries_of, judge
from tests.faults.kinds.clocks import HOUR_S, step_clock
from tests.support.desk import send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.processes import fork
from trading_system.ml_refinement.storage.times import utc_now
from worker.installation import open_store
from worker.retraining.lease import TRAINING, take_lease

_OFFSETS_S = (5 * HOUR_S, -5 * HOUR_S)


@pytest.mark.parametrize("offset_s", _OFFSETS_S)
def test_two_workers_whose_clocks_differ_by_hours_have_every_event_once(
    offset_s: float, tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    settings = settings_for(tmp_path / "state", valkey_url, batch_size=4)
    open_store(settings).close()
    for number in range(60):
        send(valkey, SIGNALS, signal(number))
        send(valkey, TRADES, outcome(number))

    def live(slot: int, steps: list[tuple[float, float]]) -> Callable[[], None]:
        def working() -> None:
            step_clock(steps)
            work(settings.model_copy(update={"consumer_slot": slot}), threading.Event(), idle_rounds=3)

        return working

    children = [fork(live(0, [(0.0, offset_s)])), fork(live(1, []))]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    labels: dict[str, set[float | None]] = {f"s-{number}": {1.5} for number in range(60)}
    place = settings.store_url or settings.store_path
    assert judge(place, valkey, must=entries_of(valkey), labels=labels).holds


@pytest.mark.parametrize("offset_s", _OFFSETS_S)
def test_a_clock_that_is_off_neither_takes_nor_keeps_a_right(offset_s: float, tmp_path: Path, valkey_url: str) -> None:
    """Held by the database's clock: hours ahead it would have run out, hours behind it would never."""
    settings = settings_for(tmp_path / "state", valkey_url)
    with open_store(settings) as store:
        assert store.leases.take(TRAINING, "elsewhere 7 other-kernel 99", 90) == 1

        def elsewhere() -> None:
            step_clock([(0.0, offset_s)])
            with open_store(settings) as own:
                assert take_lease(own, first=lambda _: None) is None
                own.leases.release(TRAINING, 1)
                assert take_lease(own, first=lambda _: None) == 2

        assert os.waitstatus_to_exitcode(os.waitpid(fork(elsewhere), 0)[1]) == 0
        lease = store.leases.holder_of(TRAINING)
        assert lease is not None
        assert abs(_seconds(lease.until) - utc_now().timestamp()) < HOUR_S


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
