"""The summary of a replay against figures reckoned by hand, and the laws of its measures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import orjson
import pytest
from sklearn.metrics import log_loss as reference_log_loss, roc_auc_score

from trading_system.simulation.position_tracker import OutcomeEvent
from trading_system.simulation.signal_generator import SignalEvent
from worker.demo.played import Played, Scored
from worker.demo.summary import (
    Held,
    Learned,
    OutOfSample,
    base_rates,
    evaluate,
    summarise,
    verdict,
)

DAYS = ("2001-01-02", "2001-01-03", "2001-01-04", "2001-01-05", "2001-01-08")
LEARNED = Learned(retrainings=3, promoted=1, provisional=0, not_serving=1, failures=1, too_few_samples=2)


def signal(number: int, day: str) -> SignalEvent:
    return SignalEvent(
        signal_id=f"s{number}",
        timestamp=f"{day}T21:00:00Z",
        symbol="IBM",
        asset_class="equity",
        signal_type="breakout",
        direction="long",
        conviction="LOW",
        technical_score=1.0,
        combined_score=1.0,
        entry_price=100.0,
        target_price=120.0,
        stop_price=90.0,
        position_size_pct=10.0,
    )


def outcome(number: int, day: str, r: float) -> OutcomeEvent:
    return OutcomeEvent(
        signal_id=f"s{number}", closed_at=f"{day}T21:00:00Z", r_multiple=r, return_pct=10 * r, exit_reason="time"
    )


def message(number: int, quality: float | None, band: str | None = None, **more: object) -> Scored:
    status = "cold_start" if quality is None else "scored"
    fields = {"signal_id": f"s{number}", "status": status, "quality_score": quality, "quality_band": band}
    fields |= {"proven": False, "not_proven": "never_shown", "combined_score": 5.0}
    return Scored.from_bytes(orjson.dumps(fields | more))


def holding(signals: int, outcomes: int) -> Held:
    return Held(
        signals=signals,
        outcomes=outcomes,
        labelled=outcomes,
        dead_letters=0,
        signal_ids=frozenset(f"s{number}" for number in range(signals)),
        outcome_ids=frozenset(f"s{number}" for number in range(outcomes)),
    )


@pytest.fixture
def played() -> Played:
    """Five signals, the first before there was a model, the last one's trade still open."""
    return Played(
        signals=[signal(number, day) for number, day in enumerate(DAYS)],
        outcomes=[
            outcome(0, "2001-01-03", 2.0),
            outcome(1, "2001-01-08", -1.0),
            outcome(2, "2001-01-08", 1.0),
            outcome(3, "2001-01-09", -0.5),
        ],
        scored=[
            message(0, None),
            message(1, 0.2, "low"),
            message(2, 0.8, "high"),
            message(3, 0.6, "medium"),
            message(4, 0.5, "medium"),
        ],
        seconds=12.34,
    )


def test_a_replay_by_hand(played: Played) -> None:
    summary = summarise(played, LEARNED, holding(5, 4)).to_json()
    found = summary.pop("out_of_sample")
    assert summary == {
        "signals": 5,
        "scored": 4,
        "cold_start": 1,
        "outcomes": 4,
        "labelled": 4,
        "retrainings": 3,
        "promoted": 1,
        "provisional": 0,
        "not_serving": 1,
        "failures": 1,
        "too_few_samples": 2,
        "dead_letters": 0,
        "lost": 0,
        "duplicated": 0,
        "verdict": summary["verdict"],
        "seconds": 12.3,
    }
    assert found["n"] == 3  # s1, s2, s3: scored by a model and ended
    assert found["auc"] == 1.0  # the one win was scored above both losses
    assert found["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.8) + math.log(0.4)) / 3, abs=5e-5)
    # Known by the signals of 3, 4 and 5 January: one trade, a win: (1 + 1) / (1 + 2).
    assert found["base_rate_log_loss"] == pytest.approx(-(2 * math.log(1 / 3) + math.log(2 / 3)) / 3, abs=5e-5)
    assert found["base_rate"] == pytest.approx(1 / 3, abs=5e-5)
    assert found["mean_r"] == pytest.approx(-0.5 / 3, abs=5e-5)
    assert found["bands"] == {
        "high": {"n": 1, "win_rate": 1.0, "mean_r": 1.0},
        "medium": {"n": 1, "win_rate": 0.0, "mean_r": -0.5},
        "low": {"n": 1, "win_rate": 0.0, "mean_r": -1.0},
    }
    assert found["thirds"] == {
        "highest": {"n": 1, "win_rate": 1.0, "mean_r": 1.0},
        "middle": {"n": 1, "win_rate": 0.0, "mean_r": -0.5},
        "lowest": {"n": 1, "win_rate": 0.0, "mean_r": -1.0},
    }


def test_the_summary_is_one_json_document(played: Played) -> None:
    assert orjson.loads(orjson.dumps(summarise(played, LEARNED, holding(5, 4)).to_json()))["signals"] == 5


def test_a_replay_of_nothing_has_a_summary() -> None:
    summary = summarise(Played([], [], [], 0.0), Learned(0, 0, 0, 0, 0, 0), holding(0, 0))
    assert (summary.lost, summary.duplicated, summary.out_of_sample.n, summary.out_of_sample.auc) == (0, 0, 0, None)
    assert "nothing can be said" in summary.verdict


def test_a_signal_without_a_score_is_lost(played: Played) -> None:
    assert summarise(replace(played, scored=played.scored[:-1]), LEARNED, holding(5, 4)).lost == 1


def test_a_signal_or_outcome_that_the_store_lacks_is_lost(played: Played) -> None:
    assert summarise(played, LEARNED, holding(4, 4)).lost == 1
    assert summarise(played, LEARNED, holding(5, 2)).lost == 2


def test_the_same_score_twice_is_a_redelivery_and_another_one_is_a_duplicate(played: Played) -> None:
    again = replace(played, scored=[*played.scored, played.scored[2]])
    assert summarise(again, LEARNED, holding(5, 4)).duplicated == 0
    other = replace(played, scored=[*played.scored, message(2, 0.7, "high")])
    summary = summarise(other, LEARNED, holding(5, 4))
    assert (summary.duplicated, summary.scored, summary.lost) == (1, 4, 0)
    assert summary.out_of_sample.thirds["highest"].mean_r == 1.0  # the first one stands


def test_rows_beyond_what_was_published_are_duplicates(played: Played) -> None:
    more = replace(holding(5, 4), signals=6, outcomes=7)
    assert summarise(played, LEARNED, more).duplicated == 4


def test_the_base_rate_knows_trades_that_ended_by_then_and_no_later_one() -> None:
    outcomes = [outcome(1, "2001-01-04", 1.0), outcome(2, "2001-01-03", -1.0), outcome(3, "2001-01-08", 1.0)]
    instants = [f"2001-01-{day}T21:00:00Z" for day in ("02", "03", "04", "05", "08")]
    assert base_rates(instants, outcomes).tolist() == pytest.approx([1 / 2, 1 / 3, 2 / 4, 2 / 4, 3 / 5])


def test_the_base_rate_of_a_score_does_not_move_when_the_future_changes() -> None:
    rng = np.random.default_rng(7)
    days = [f"2001-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)]
    outcomes = [outcome(number, day, float(rng.normal())) for number, day in enumerate(days)]
    instants = [f"{day}T21:00:00Z" for day in days]
    whole = base_rates(instants, outcomes)
    for cut in range(0, len(days), 25):
        assert base_rates(instants[: cut + 1], outcomes[: cut + 1]).tolist() == whole[: cut + 1].tolist()


def test_the_figures_agree_with_the_reference() -> None:
    rng = np.random.default_rng(3)
    quality = np.round(rng.uniform(0.01, 0.99, 300), 2)  # with ties
    r = np.where(rng.uniform(size=300) < quality, 1.5, -1.0)
    days = np.datetime64("2001-01-01") + np.arange(300)
    signals = [signal(number, str(day)) for number, day in enumerate(days)]
    outcomes = [outcome(number, "2002-01-02", float(value)) for number, value in enumerate(r)]
    found = evaluate(signals, outcomes, {f"s{n}": message(n, float(value)) for n, value in enumerate(quality)})
    assert found.auc == pytest.approx(roc_auc_score(r > 0, quality), abs=5e-5)
    assert found.log_loss == pytest.approx(reference_log_loss(r > 0, quality), abs=5e-5)
    assert found.base_rate_log_loss == pytest.approx(math.log(2), abs=5e-5)  # nothing had ended: 1/2
    assert found.auc_interval is not None
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]


def found(**changes: object) -> OutOfSample:
    plain = OutOfSample(
        n=500,
        auc=0.55,
        auc_interval=(0.51, 0.59),
        log_loss=0.68,
        base_rate_log_loss=0.69,
        base_rate=0.5,
        mean_r=0.0,
        bands={},
        thirds={},
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (found(), "The scores tell wins from losses: AUC 0.550 [0.510, 0.590] over 500 trades"),
        (found(auc_interval=(0.49, 0.6)), "no edge"),
        (found(auc=0.51, auc_interval=(0.47, 0.55), log_loss=0.60), "no edge"),
        (found(log_loss=0.70), "no better as probabilities"),
        (found(auc=0.4, auc_interval=(0.35, 0.45)), "worse than chance"),
        (found(n=99), "Too few trades"),
        (found(base_rate=0.05), "Too few trades"),
        (found(n=0, auc=None, auc_interval=None, log_loss=None), "nothing can be said"),
    ],
)
def test_the_verdict_says_what_the_figures_allow(evidence: OutOfSample, words: str) -> None:
    sentence = verdict(evidence)
    assert words in sentence
    assert sentence.count("\n") == 0
