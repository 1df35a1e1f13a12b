"""The driver against real streams: it waits for what is due, and gives up with one clear line."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import orjson
import pytest
import redis
from rich.console import Console

from tests.support.events import GROUP, SCORES, SIGNALS, STREAMS, TRADES
from tests.support.waiting import join
from trading_system.simulation.market_data import load_stocks
from trading_system.simulation.timeline import Moment, timeline_of
from worker.demo.display import live_display, show_summary
from worker.demo.played import Played
from worker.demo.replay import MarketReplay, Progress, ReplayStalled, ReplayTimeouts
from worker.demo.summary import Held, Learned, summarise
from worker.errors import TransientError
from worker.observability.status import Status, Training
from worker.redis_server.connection import connect

INPUTS = STREAMS.inputs
QUIET = Status(
    redis="embedded",
    streams=(),
    pending=0,
    lag=0,
    signals=0,
    labelled=0,
    predictions=0,
    outcomes=0,
    waiting_outcomes=0,
    incomplete=0,
    duplicates=0,
    dead_letters=0,
    new_labels=0,
    min_new_labels=10,
    newest_label_at=None,
    champion=None,
    proven=False,
    champion_since=None,
    last_training=None,
)
RUNNING = Training("run-1", "running", "2026-01-02T21:00:00.000000Z", None, None, None, None)
ENDED = replace(RUNNING, status="completed", model_id="model-1", verdict="promote")
DUE = replace(QUIET, new_labels=10)


@pytest.fixture(scope="module")
def timeline() -> tuple[Moment, ...]:
    return timeline_of({"MSFT": load_stocks()["MSFT"].iloc[:120]})


@pytest.fixture
def other_side(valkey: redis.Redis, valkey_url: str) -> Iterator[None]:
    """Reads what is published and answers each signal with a score, so that a replay is not held up."""
    for stream in INPUTS:
        valkey.xgroup_create(stream, GROUP, id="0", mkstream=True)
    stop = threading.Event()

    def consume() -> None:
        with redis.Redis.from_url(valkey_url) as client:
            while not stop.is_set():
                reply = client.xreadgroup(GROUP, "other", dict.fromkeys(INPUTS, ">"), block=20)
                for stream, rows in reply or ():
                    for entry_id, fields in rows:
                        event = orjson.loads(fields[b"data"])
                        if stream == b"signals.created":
                            score = {"signal_id": event["signal_id"], "status": "scored"}
                            score |= {"quality_score": 0.5, "quality_band": "medium"}
                            score |= {"proven": False, "not_proven": "never_shown", "combined_score": 5.0}
                            client.xadd(SCORES, {"data": orjson.dumps(score)})
                        client.xack(stream, GROUP, entry_id)

    thread = threading.Thread(target=consume)
    thread.start()
    yield
    stop.set()
    join(thread)


def player(
    client: redis.Redis,
    timeline: tuple[Moment, ...],
    look: Callable[[], Status] = lambda: QUIET,
    on_progress: Callable[[Progress], None] = lambda _: None,
    **timeouts: float,
) -> MarketReplay:
    return MarketReplay(
        client,
        timeline,
        streams=STREAMS,
        group=GROUP,
        look=look,
        is_due=lambda status: status.new_labels >= status.min_new_labels,
        on_progress=on_progress,
        timeouts=ReplayTimeouts(**timeouts),
    )


def test_without_a_worker_it_says_what_is_left_and_publishes_no_second_moment(
    valkey: redis.Redis, timeline: tuple[Moment, ...]
) -> None:
    with pytest.raises(ReplayStalled, match=r"the events of 2000-.* in 0\.2 s: signals\.created 0 pending, lag 1"):
        player(valkey, timeline, drain_s=0.2).run()
    assert valkey.xlen(SIGNALS) == len(timeline[0].signals)


def test_what_was_delivered_and_not_acknowledged_holds_it_up(valkey: redis.Redis) -> None:
    nothing_new = (Moment("2000-05-01T20:00:00Z", (), ()),)
    for stream in INPUTS:
        valkey.xgroup_create(stream, GROUP, id="0", mkstream=True)
    entry_id = valkey.xadd(TRADES, {"data": b"{}"})
    valkey.xreadgroup(GROUP, "one", {TRADES: ">"})
    with pytest.raises(ReplayStalled, match=r"trades\.closed 1 pending, lag 0"):
        player(valkey, nothing_new, drain_s=0.2).run()
    valkey.xack(TRADES, GROUP, entry_id)
    assert player(valkey, nothing_new, drain_s=0.2).run().signals == []


@pytest.mark.usefixtures("other_side")
def test_everything_is_published_in_order_and_every_score_is_read_once(
    valkey: redis.Redis, timeline: tuple[Moment, ...]
) -> None:
    played = player(valkey, timeline).run()
    signals = [event for moment in timeline for event in moment.signals]
    outcomes = [event for moment in timeline for event in moment.outcomes]
    assert played.signals == signals
    assert played.outcomes == outcomes
    assert [message.signal_id for message in played.scored] == [event["signal_id"] for event in signals]
    for stream, events in zip(INPUTS, (signals, outcomes), strict=True):
        assert [orjson.loads(fields[b"data"]) for _, fields in valkey.xrange(stream)] == events


@pytest.mark.usefixtures("other_side")
def test_no_later_event_is_published_before_a_training_that_is_due_has_ended(
    valkey: redis.Redis, timeline: tuple[Moment, ...]
) -> None:
    first = next(place for place, moment in enumerate(timeline) if moment.outcomes)
    known = sum(len(moment.signals) + len(moment.outcomes) for moment in timeline[: first + 1])
    looks = iter([QUIET, DUE, DUE, *[replace(QUIET, last_training=RUNNING)] * 3])
    seen: list[tuple[str, int]] = []

    def look() -> Status:
        status = next(looks, replace(QUIET, last_training=ENDED))
        if status.last_training is RUNNING or status is DUE:
            seen.append((status.last_training.status if status.last_training else "due", published()))
        return status

    def published() -> int:
        return sum(int(valkey.xlen(stream)) for stream in INPUTS)

    player(valkey, timeline, look).run()
    assert seen == [("due", known)] * 2 + [("running", known)] * 3
    assert published() > known


@pytest.mark.usefixtures("other_side")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (DUE, "a retraining is due since 2000-.* and was not begun"),
        (replace(QUIET, last_training=RUNNING), "the retraining of 2000-.* has not ended"),
    ],
)
def test_a_training_that_does_not_come_or_does_not_end_stops_the_replay(
    valkey: redis.Redis, timeline: tuple[Moment, ...], status: Status, words: str
) -> None:
    with pytest.raises(ReplayStalled, match=words):
        player(valkey, timeline, lambda: status, training_start_s=0.1, training_s=0.1).run()


def test_a_server_that_is_gone_is_our_own_fault_and_named_so(timeline: tuple[Moment, ...]) -> None:
    with connect("unix:///nowhere/valkey.sock") as client, pytest.raises(TransientError):
        player(client, timeline).run()


def test_the_live_picture_shows_where_the_replay_is() -> None:
    text = io.StringIO()
    status = replace(QUIET, labelled=321, dead_letters=2, champion="model-7", last_training=ENDED, new_labels=4)
    with live_display(Console(file=text, force_terminal=True, width=120)) as tell:
        tell(Progress("2004-11-10T21:00:00Z", 5, 10, 650, 329, "training", status))
    drawn = text.getvalue()
    for words in ("2004-11-10", "650", "329", "321", "model-7 (provisional)", "4 of 10", "waiting for the training"):
        assert words in drawn


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    text = io.StringIO()
    with live_display(Console(file=text, width=200)) as tell:
        for moment in range(1, 501):
            tell(Progress("2004-11-10T21:00:00Z", moment, 900, moment, moment, "replaying", QUIET))
    assert [line.split(",")[0] for line in text.getvalue().splitlines()] == [
        "2004-11-10: 250 published",
        "2004-11-10: 500 published",
    ]


def test_the_summary_for_people_has_the_figures_and_the_verdict(timeline: tuple[Moment, ...]) -> None:
    signals = [event for moment in timeline for event in moment.signals]
    held = Held(len(signals), 0, 0, 0, frozenset(), frozenset())
    summary = summarise(Played(signals, [], [], 3.0), Learned(2, 0, 1, 1, 0, 4), held)
    text = io.StringIO()
    show_summary(summary, Console(file=text, width=120))
    assert "2: 0 promoted, 1 not proven: serve provisionally, 1 do not serve, 0 failed" in text.getvalue()
    assert f"{len(signals)} lost" in text.getvalue()
    assert summary.verdict in text.getvalue()
