"""Synthetic worlds with known truth: signals whose win probability is set by their features, or by nothing at all.

Sixty features, of variance 0.7 own heavy-tailed noise and 0.3 six common factors; six of them may matter; the base win
rate is 0.45.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.tables.vectors import VectorRow
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us
from trading_system.ml_refinement.typing import BoolArray, FloatArray, TimeArray

Rng = np.random.Generator

N_FEATURES = 60
BASE_RATE = 0.45
EVENT_DAYS = 42
#: Monday, 4 January 2010, in microseconds.
START_US = 1_262_563_200_000_000

_INFORMATIVE = (3, 11, 19, 27, 38, 52)
_WEIGHTS = np.array([1.0, -0.8, 0.7, -0.6, 0.5, 0.4])
_SAMPLE = 200_000


@dataclass(frozen=True)
class World:
    """Rows of a world: features (n, 60), R (n,), true P(win) (n,), and when each was entered and known."""

    X: FloatArray
    r: FloatArray
    truth: FloatArray
    entered_us: TimeArray
    known_us: TimeArray


def loadings() -> FloatArray:
    """How the 60 features load on the six factors, shape (6, 60); the same in every world."""
    raw = np.random.default_rng(60).standard_normal((6, N_FEATURES))
    unit: FloatArray = raw / np.linalg.norm(raw, axis=0)
    return unit


def features(n: int, rng: Rng) -> FloatArray:
    """Features of unit variance, shape (n, 60)."""
    own = rng.standard_t(5, (n, N_FEATURES)) / np.sqrt(5.0 / 3.0)
    mixed: FloatArray = np.sqrt(0.7) * own + np.sqrt(0.3) * rng.standard_normal((n, 6)) @ loadings()
    return mixed


def opinion(X: FloatArray, kind: str) -> FloatArray:
    """The unscaled logit, shape (n,): `linear`, `mixed`, or `null`."""
    z = X[:, _INFORMATIVE]
    if kind == "linear":
        logit: FloatArray = z @ _WEIGHTS
        return logit
    if kind == "mixed":
        return z[:, 0] - 0.8 * z[:, 1] + 1.5 * (z[:, 2] > 0.5) + z[:, 3] * z[:, 4] + 1.2 * np.abs(z[:, 5])
    return np.zeros(len(X))


def expected_auc(truth: FloatArray, score: FloatArray) -> float:
    """AUC of a score in expectation over outcomes of the true probabilities, both of shape (n,); ties count half."""
    _, place = np.unique(score, return_inverse=True)
    win, loss = np.bincount(place, truth), np.bincount(place, 1.0 - truth)
    pairs = truth.sum() * (1.0 - truth).sum() - (truth * (1.0 - truth)).sum()
    tied = win * loss - np.bincount(place, truth * (1.0 - truth))
    return float((win * (np.cumsum(loss) - loss) + 0.5 * tied).sum() / pairs)


def bayes_auc(p: FloatArray) -> float:
    """AUC that the true probabilities (n,) themselves attain, in expectation over outcomes."""
    return expected_auc(p, p)


@cache
def calibrated_scale(kind: str, auc: float) -> tuple[float, float]:
    """Scale and offset of the logit at which the base rate is 0.45 and Bayes attains `auc`."""
    if kind == "null":
        return 0.0, float(np.log(BASE_RATE / (1.0 - BASE_RATE)))
    raw = opinion(features(_SAMPLE, np.random.default_rng(1)), kind)

    def offset(scale: float) -> float:
        return float(brentq(lambda shift: expit(scale * raw + shift).mean() - BASE_RATE, -20.0, 20.0))

    def miss(scale: float) -> float:
        return bayes_auc(expit(scale * raw + offset(scale))) - auc

    scale = float(brentq(miss, 1e-3, 5.0, xtol=1e-4))
    return scale, offset(scale)


def outcomes(won: BoolArray, rng: Rng) -> FloatArray:
    """R-multiples of outcomes, shape (n,): a win about +1.4, a loss about -1.05."""
    n = len(won)
    return np.where(won, 1.4 * np.exp(0.4 * rng.standard_normal(n)), -1.05 * np.exp(0.1 * rng.standard_normal(n)))


def independent(
    n: int, rng: Rng, *, kind: str = "null", auc: float = 0.6, per_day: float = 4.0, hold_days: float = 10.0
) -> World:
    """Signals that share nothing, `per_day` of them, open up to `hold_days`; one in ten is closed by that limit."""
    scale, offset = calibrated_scale(kind, auc)
    X = features(n, rng)
    truth = expit(scale * opinion(X, kind) + offset)
    r = outcomes(rng.random(n) < truth, rng)
    entered = START_US + (np.arange(n) / per_day * DAY_US).astype(np.int64)
    known = entered + (np.minimum(rng.uniform(0.2, hold_days / 0.9, n), hold_days) * DAY_US).astype(np.int64)
    return World(X, r, truth, entered, known)


def clustered(days: int, rng: Rng, *, edge: float = 0.0, per_day: int = 4) -> World:
    """Trades that share a market: 20 features are the day's, and trades open together share 60 % of R's variance.

    `edge` scales what the first informative features say of R; 0 is noise. `truth` is given the features alone.
    """
    n = days * per_day
    day = np.repeat(np.arange(days), per_day)
    X = features(n, rng)
    market = np.zeros((days, 20))
    for t in range(1, days):
        market[t] = 0.98 * market[t - 1] + np.sqrt(1.0 - 0.98**2) * rng.standard_normal(20)
    X[:, 40:] = market[day]
    hold = rng.integers(2, 21, n)
    path = np.concatenate([[0.0], np.cumsum(rng.standard_normal(days + 21))])
    shared = (path[day + hold] - path[day]) / np.sqrt(hold)
    drift = edge * (X[:, _INFORMATIVE[:4]] @ _WEIGHTS[:4]) / np.linalg.norm(_WEIGHTS[:4])
    noise = np.sqrt(0.6) * shared + np.sqrt(0.4) * rng.standard_normal(n)
    cut = float(np.quantile(drift + rng.standard_normal(n), 1.0 - BASE_RATE))
    r = 1.2 * (drift + noise - cut)
    truth = expit(1.702 * (drift - cut))
    entered = START_US + day * DAY_US + (np.tile(np.arange(per_day), days) * 3_600_000_000)
    return World(X, r, truth, entered.astype(np.int64), (entered + hold * DAY_US).astype(np.int64))


def canary(days: int, rng: Rng, *, symbols: int = 8, event_days: int = EVENT_DAYS) -> World:
    """Noise in which an outcome that is not known yet tells much: one signal a day on each of some symbols.

    Every `event_days` each symbol, on a day of its own, has an event at which its open trades are closed. Trades closed
    by the same event share their features but for a little noise, and nine tenths of R's variance; other events say
    nothing of it. `truth` is the constant probability of a win.
    """
    day, symbol = np.divmod(np.arange(days * symbols), symbols)
    ahead = event_days - (day + symbol * event_days // symbols) % event_days
    _, event = np.unique((day + ahead) * symbols + symbol, return_inverse=True)
    shared = rng.standard_normal((event.max() + 1, N_FEATURES + 1))[event]
    X = np.sqrt(0.9) * shared[:, 1:] + np.sqrt(0.1) * rng.standard_normal((len(day), N_FEATURES))
    r = np.sqrt(0.9) * shared[:, 0] + np.sqrt(0.1) * rng.standard_normal(len(day))
    entered = START_US + day * DAY_US + symbol * 3_600_000_000
    return World(X, r, np.full(len(day), 0.5), entered, START_US + (day + ahead) * DAY_US)


def stored(db: FeatureDatabase, world: World, *, names: list[str], version: str = "bench-1") -> None:
    """Put a world's signals and outcomes into a store, as the worker would."""
    ids = [f"s{i:06d}" for i in range(len(world.r))]
    rows = [
        VectorRow(
            signal_id, text_from_us(int(at)), "SYM", "equity", "breakout", None, version, True, b"0" * 16, signal_id
        )
        for signal_id, at in zip(ids, world.entered_us, strict=True)
    ]
    told = [
        OutcomeRow(signal_id, 0, text_from_us(int(known)), float(r), None, None, signal_id)
        for signal_id, known, r in zip(ids, world.known_us, world.r, strict=True)
    ]
    with db.atomic():
        db.vectors.insert_new(rows, names, world.X)
        db.outcomes.record(told)
