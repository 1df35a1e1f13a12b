"""The gate, on evidence written out here: what it lets through, what it holds, and what chance can do against it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trading_system.ml_refinement.monitoring.served import worse_than_base_rate
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training.promotion import SKILL_LEVEL, ChampionRecord, judge
from trading_system.ml_refinement.training.verdicts import Decision, Serve, Verdict
from trading_system.ml_refinement.validation.evidence import Evidence, block_us, evidence_figures
from trading_system.ml_refinement.validation.metrics import Estimate, clustered_mean, log_losses

DAYS = 252


def evidence(
    rng: np.random.Generator, *, edge: float, days: int = DAYS, per_day: int = 2, quality: float = 1.0
) -> Evidence:
    """Outcomes whose true logit spreads by `edge`, and a forecast that knows the share `quality` of it."""
    n = days * per_day
    spread = edge * rng.standard_normal(n)
    won = rng.random(n) < 1.0 / (1.0 + np.exp(0.2 - spread))
    p = 1.0 / (1.0 + np.exp(0.2 - quality * spread))
    entered = (np.arange(n) * DAY_US // per_day).astype(np.int64)
    return Evidence(won, p, np.full(n, 0.45), entered, entered // (21 * DAY_US), block_us(5 * DAY_US))


def champion(served: np.ndarray, recipe: str = "ensemble", proven: bool = True) -> ChampionRecord:
    return ChampionRecord("champion-1", recipe, proven, served)


def decide(seen: Evidence, **arguments: object) -> Verdict:
    return judge(seen, **{"recipe": "ensemble", "champion": None, **arguments})


def test_a_first_model_with_skill_is_promoted_and_proven() -> None:
    verdict = decide(evidence(np.random.default_rng(0), edge=0.8))
    assert (verdict.decision, verdict.serve, verdict.rule) == (Decision.PROMOTE, Serve.PROVEN, "skill")
    assert verdict.figures["auc"] > 0.6
    assert verdict.figures["log_loss"] < verdict.figures["base_rate_log_loss"]
    assert "AUC" in verdict.reason
    assert verdict.not_proven is None
    assert verdict.record == verdict.figures


def test_noise_is_not_proven_and_serves_provisionally_where_it_does_no_harm() -> None:
    seen = evidence(np.random.default_rng(1), edge=0.0)
    harmless = Evidence(seen.won, seen.base, seen.base, seen.entered_us, seen.window, seen.block_us)
    verdict = decide(harmless)
    assert (verdict.decision, verdict.serve, verdict.not_proven) == (Decision.REJECT, Serve.PROVISIONAL, "never_shown")
    assert verdict.record == {**verdict.figures, "not_proven": "never_shown"}


def test_a_forecast_worse_than_the_base_rate_does_not_serve_at_all() -> None:
    rng = np.random.default_rng(2)
    seen = evidence(rng, edge=0.0)
    loud = Evidence(
        seen.won, rng.uniform(0.05, 0.95, len(seen.won)), seen.base, seen.entered_us, seen.window, seen.block_us
    )
    verdict = decide(loud)
    assert (verdict.decision, verdict.serve) == (Decision.REJECT, Serve.NO)
    assert "worse than the base rate" in verdict.reason


@pytest.mark.parametrize("before", [None, "ensemble", "other"])
def test_fewer_validation_samples_than_were_asked_for_are_held_whatever_they_show(before: str | None) -> None:
    seen = evidence(np.random.default_rng(0), edge=0.8)
    served = None if before is None else champion(np.full(len(seen.won), 0.45), before)
    verdict = decide(seen, champion=served, min_rows=10_000)
    assert (verdict.decision, verdict.serve) == (Decision.HOLD, Serve.NO)
    assert "504 of 10,000 validation samples" in verdict.reason
    assert decide(seen, champion=served, min_rows=504).decision is not Decision.HOLD


@pytest.mark.parametrize(("days", "per_day", "word"), [(40, 4, "blocks"), (90, 1, "rows"), (252, 2, "rarer outcome")])
def test_too_little_evidence_is_held(days: int, per_day: int, word: str) -> None:
    seen = evidence(np.random.default_rng(3), edge=2.0, days=days, per_day=per_day)
    if word == "rarer outcome":
        won = seen.won & (np.cumsum(seen.won) < 25)
        seen = Evidence(won, seen.p, seen.base, seen.entered_us, seen.window, seen.block_us)
    verdict = decide(seen)
    assert (verdict.decision, verdict.not_proven) == (Decision.HOLD, "too_little_evidence")
    assert word in verdict.reason


def test_without_rows_nothing_crashes_and_nothing_serves() -> None:
    none = np.array([], dtype=np.int64)
    verdict = decide(Evidence(none > 0, np.empty(0), np.empty(0), none, none, DAY_US))
    assert (verdict.decision, verdict.serve) == (Decision.HOLD, Serve.NO)
    assert verdict.figures == {"rows": 0.0, "blocks": 0.0}


def test_long_holdings_make_long_blocks() -> None:
    assert block_us(3 * DAY_US) == 10 * DAY_US
    assert block_us(31 * DAY_US) == 31 * DAY_US


def test_a_refresh_with_skill_replaces_a_champion_that_served_no_better() -> None:
    seen = evidence(np.random.default_rng(4), edge=0.8)
    verdict = decide(seen, champion=champion(seen.p))
    assert (verdict.decision, verdict.rule) == (Decision.PROMOTE, "refresh")


def test_a_refresh_that_is_worse_than_what_was_served_is_rejected() -> None:
    seen = evidence(np.random.default_rng(5), edge=1.2, quality=0.4)
    better = 1.0 / (1.0 + np.exp(0.2 - (np.log(seen.p / (1 - seen.p)) + 0.2) / 0.4))
    verdict = decide(seen, champion=champion(better))
    assert (verdict.decision, verdict.serve, verdict.not_proven) == (Decision.REJECT, Serve.NO, "not_better")


def test_without_skill_not_even_a_refresh_passes() -> None:
    seen = evidence(np.random.default_rng(6), edge=0.0, quality=0.0)
    verdict = decide(seen, champion=champion(np.full(len(seen.p), 0.2)))
    assert (verdict.decision, verdict.serve, verdict.rule) == (Decision.REJECT, Serve.NO, "refresh")


def test_a_new_recipe_must_be_better_than_what_was_served() -> None:
    seen = evidence(np.random.default_rng(7), edge=1.0)
    dull = 0.45 + 0.3 * (seen.p - 0.45)
    assert decide(seen, champion=champion(dull, "gradient_boosting")).decision is Decision.PROMOTE
    assert decide(seen, champion=champion(seen.p, "gradient_boosting")).decision is Decision.REJECT


def test_every_recipe_tried_makes_the_next_one_pay_more() -> None:
    seen = evidence(np.random.default_rng(8), edge=0.8)
    close = 1.0 / (1.0 + np.exp(-0.55 * np.log(seen.p / (1 - seen.p)) + 0.1))
    decisions = [decide(seen, champion=champion(close, "other"), tries=tried).decision for tried in (1, 10**9)]
    assert decisions == [Decision.PROMOTE, Decision.REJECT]


def test_a_new_recipe_waits_until_the_champion_has_served_enough_to_compare_with() -> None:
    seen = evidence(np.random.default_rng(9), edge=0.8)
    served = np.where(np.arange(len(seen.p)) < len(seen.p) - 60, np.nan, 0.45)
    verdict = decide(seen, champion=champion(served, "gradient_boosting"))
    assert verdict.decision is Decision.HOLD
    assert verdict.figures["champion_rows"] == 60


def test_a_provisional_champion_protects_nothing() -> None:
    seen = evidence(np.random.default_rng(10), edge=0.8)
    perfect = np.where(seen.won, 0.99, 0.01)
    assert decide(seen, champion=champion(perfect, proven=False)).serve is Serve.PROVEN


def test_serving_worse_than_the_base_rate_is_seen_and_serving_better_is_not() -> None:
    rng = np.random.default_rng(11)
    good = evidence(rng, edge=0.8)
    assert worse_than_base_rate(good)[0] is False
    bad = Evidence(good.won, 1.0 - good.p, good.base, good.entered_us, good.window, good.block_us)
    assert worse_than_base_rate(bad)[0] is True
    few = bad.rows(np.arange(len(bad.won)) < 50)
    assert worse_than_base_rate(few)[0] is False


def test_chance_rarely_passes_the_gate() -> None:
    rng = np.random.default_rng(12)
    passed = 0
    for _ in range(400):
        seen = evidence(rng, edge=0.0)
        guess = 1.0 / (1.0 + np.exp(0.2 - 0.05 * rng.standard_normal(len(seen.won))))
        lucky = Evidence(seen.won, guess, seen.base, seen.entered_us, seen.window, seen.block_us)
        passed += decide(lucky).decision is Decision.PROMOTE
    assert passed <= 16


def test_figures_are_finite_and_name_what_matters() -> None:
    figures = evidence_figures(evidence(np.random.default_rng(13), edge=0.5))
    assert all(np.isfinite(value) for value in figures.values())
    assert {"rows", "blocks", "auc", "auc_low", "auc_high", "log_loss", "base_rate_log_loss", "brier"} <= figures.keys()


def smallest_level(seen: Evidence) -> float:
    """The one-sided level at which the better of the two tests of skill just shows it, each at all of the level."""

    def level(auc: Estimate, gain: float) -> float:
        return float(stats.t.sf(auc.t(0.5), auc.freedom)) if gain > 0.0 else 1.0

    within = level(seen.auc_within_weeks(), seen.gain_within_weeks())
    return min(level(seen.auc(), float(seen.gain.mean())), within)


def test_a_first_proof_has_a_level_of_two_in_a_hundred_and_each_of_its_tests_half_of_it() -> None:
    levels, proven = [], []
    for seed in range(150):
        seen = evidence(np.random.default_rng(seed), edge=0.3, quality=0.6)
        levels.append(smallest_level(seen))
        proven.append(decide(seen).decision is Decision.PROMOTE)
    assert proven == [level < 0.01 for level in levels]
    assert any(0.008 < level < 0.01 for level in levels)
    assert any(0.01 < level < 0.0125 for level in levels)


def test_a_refresh_keeps_its_proof_where_skill_shows_at_one_in_five() -> None:
    levels, kept = [], []
    for seed in range(100):
        seen = evidence(np.random.default_rng(seed), edge=0.3, quality=0.6)
        levels.append(smallest_level(seen))
        kept.append(decide(seen, champion=champion(seen.p)).decision is Decision.PROMOTE)
    assert kept == [level < 0.10 for level in levels]
    assert any(0.05 < level < 0.10 for level in levels)
    assert any(0.10 < level < 0.20 for level in levels)


def test_a_new_recipe_is_better_than_what_was_served_at_one_in_twenty_for_all_tries_together() -> None:
    levels, taken = [], []
    for seed in range(100):
        seen = evidence(np.random.default_rng(seed), edge=0.9)
        served = 1.0 / (1.0 + np.exp(0.2 - 0.55 * (np.log(seen.p / (1.0 - seen.p)) + 0.2)))
        verdict = decide(seen, champion=champion(served, "other"), tries=2)
        if verdict.rule == "new_recipe" and "champion_t" in verdict.figures:
            better = log_losses(seen.won, served) - log_losses(seen.won, seen.p)
            margin = clustered_mean(better, seen.cluster)
            levels.append(float(stats.t.sf(margin.t(), margin.freedom)))
            taken.append(verdict.decision is Decision.PROMOTE)
    assert len(levels) > 80
    assert taken == [level < 0.025 for level in levels]
    assert any(0.0125 < level < 0.025 for level in levels)
    assert any(0.025 < level < 0.05 for level in levels)


def test_what_is_worse_than_the_base_rate_at_one_in_ten_does_not_serve_provisionally() -> None:
    levels, served = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        seen = evidence(rng, edge=0.0)
        p = 1.0 / (1.0 + np.exp(0.2 - 0.15 * rng.standard_normal(len(seen.won))))
        loud = Evidence(seen.won, p, seen.base, seen.entered_us, seen.window, seen.block_us)
        excess = clustered_mean(-loud.gain, loud.cluster)
        levels.append(float(stats.t.sf(excess.t(), excess.freedom)))
        served.append(decide(loud).serve is not Serve.NO)
    assert served == [level >= 0.10 for level in levels]
    assert any(0.05 < level < 0.10 for level in levels)
    assert any(0.10 < level < 0.15 for level in levels)


def test_every_try_is_paid_for_also_before_the_first_promotion() -> None:
    seen = evidence(np.random.default_rng(12), edge=0.45)
    decisions = [decide(seen, tries=tries).decision for tries in (1, 10**9)]
    assert decisions == [Decision.PROMOTE, Decision.REJECT]


def test_looks_that_follow_each_other_closely_have_a_part_of_the_level() -> None:
    seen = evidence(np.random.default_rng(13), edge=0.8)
    levels = [
        decide(seen, days_since_look=days).figures["skill_level"]
        for days in (1.0, 7.0, 20.9, 21.0, 400.0, float("inf"))
    ]
    assert levels == sorted(levels)
    assert levels[0] < levels[1] < levels[2] < levels[3]
    assert levels[3:] == [SKILL_LEVEL] * 3


def test_a_look_at_the_same_rows_again_proves_nothing_and_says_so() -> None:
    verdict = decide(evidence(np.random.default_rng(13), edge=0.8), days_since_look=0.0)
    assert (verdict.decision, verdict.serve) == (Decision.HOLD, Serve.PROVISIONAL)
    assert "no outcome has come" in verdict.reason


def shared_luck(rng: np.random.Generator, *, edge: float) -> Evidence:
    """Weeks share most of their trades' luck, and the forecast is wrong about weeks; about their trades it knows."""
    n = 6 * DAYS
    entered = (np.arange(n) * DAY_US // 6).astype(np.int64)
    week = (entered + 3 * DAY_US) // (7 * DAY_US)
    own, luck = edge * rng.standard_normal(n), 1.5 * rng.standard_normal(week.max() + 1)[week]
    opinion = own + edge * rng.standard_normal(week.max() + 1)[week]
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-(own + luck)))
    p = 1.0 / (1.0 + np.exp(-0.5 * opinion))
    return Evidence(won, p, np.full(n, 0.5), entered, entered // (21 * DAY_US), block_us(5 * DAY_US))


def test_what_a_weeks_trades_share_does_not_hide_skill() -> None:
    proven = windows = 0
    for seed in range(30):
        seen = shared_luck(np.random.default_rng(seed), edge=0.4)
        proven += decide(seen).decision is Decision.PROMOTE
        windows += seen.auc().above(0.5, SKILL_LEVEL)
    assert proven > windows + 5


def test_timing_the_market_is_skill_too_though_no_week_tells_its_trades_apart() -> None:
    rng = np.random.default_rng(14)
    n = 2 * DAYS
    entered = (np.arange(n) * DAY_US // 2).astype(np.int64)
    week = (entered + 3 * DAY_US) // (7 * DAY_US)
    logits = 1.5 * rng.standard_normal(week.max() + 1)[week]
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-logits))
    p = 1.0 / (1.0 + np.exp(-logits))
    seen = Evidence(won, p, np.full(n, 0.5), entered, entered // (21 * DAY_US), block_us(5 * DAY_US))
    assert abs(seen.auc_within_weeks().t(0.5)) < 1.0
    assert decide(seen).serve is Serve.PROVEN


def test_skill_within_weeks_does_not_excuse_probabilities_that_are_worse_than_the_base_rate() -> None:
    seen = evidence(np.random.default_rng(15), edge=1.0)
    odds = np.log(seen.p / (1.0 - seen.p))
    high = Evidence(seen.won, 1 / (1 + np.exp(-odds - 2.0)), seen.base, seen.entered_us, seen.window, seen.block_us)
    assert high.gain_within_weeks() == pytest.approx(seen.gain_within_weeks())
    verdict = decide(high)
    assert (verdict.decision, verdict.serve) == (Decision.REJECT, Serve.NO)
    assert "above the base rate's" in verdict.reason


def joined(*parts: Evidence) -> Evidence:
    """Pieces of evidence one after the other."""
    columns = ("won", "p", "base", "entered_us", "window")
    later = [0, *np.cumsum([np.ptp(part.entered_us) + DAY_US for part in parts[:-1]]).tolist()]
    told = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    entered = np.concatenate([part.entered_us + at for part, at in zip(parts, later, strict=True)])
    return Evidence(**{**told, "entered_us": entered, "window": entered // (21 * DAY_US)}, block_us=parts[0].block_us)


def once_good(rng: np.random.Generator, *, good: int, since: float) -> Evidence:
    """A forecast that knew much for so many days, and since then as much as `since` says."""
    return joined(
        evidence(rng, edge=1.5, days=good),
        evidence(rng, edge=1.5 * since, days=DAYS - good) if since else unknowing(rng, DAYS - good),
    )


def unknowing(rng: np.random.Generator, days: int) -> Evidence:
    """Outcomes of which the forecast knows nothing, and is not sure of anything."""
    seen = evidence(rng, edge=0.0, days=days)
    p = 0.45 + 0.02 * rng.standard_normal(len(seen.won))
    return Evidence(seen.won, p, seen.base, seen.entered_us, seen.window, seen.block_us)


def test_after_a_proof_that_ended_the_newest_evidence_has_to_show_skill_by_itself() -> None:
    seen = once_good(np.random.default_rng(3), good=126, since=0.0)
    assert decide(seen).serve is Serve.PROVEN
    after = decide(seen, renewal=True)
    assert (after.decision, after.serve, after.not_proven) == (Decision.REJECT, Serve.PROVISIONAL, "skill_not_shown")
    assert "the newest 126 days do not show it at level 0.1: AUC 0." in after.reason
    again = decide(once_good(np.random.default_rng(3), good=126, since=0.7), renewal=True)
    assert (again.decision, again.serve) == (Decision.PROMOTE, Serve.PROVEN)
    assert "; in the newest 126 days AUC 0." in again.reason


def test_the_newest_evidence_of_a_renewal_is_enough_blocks_of_shared_luck_or_it_waits() -> None:
    rng = np.random.default_rng(3)
    slow = {"block_us": block_us(28 * DAY_US)}
    seen = once_good(rng, good=126, since=0.7)
    long = Evidence(seen.won, seen.p, seen.base, seen.entered_us, seen.window, **slow)
    assert "; in the newest 196 days AUC 0." in decide(long, renewal=True).reason
    rare = evidence(rng, edge=2.5, days=300, per_day=1)
    late = np.arange(300) >= 280
    entered = rare.entered_us + np.where(late, 100 * DAY_US, 0)
    gap = Evidence(rare.won, rare.p, rare.base, entered, entered // (21 * DAY_US), rare.block_us)
    assert decide(gap).serve is Serve.PROVEN
    held = decide(gap, renewal=True)
    assert (held.decision, held.serve) == (Decision.HOLD, Serve.PROVISIONAL)
    assert "but the last proof ended, and of the newest 126 days there are" in held.reason
