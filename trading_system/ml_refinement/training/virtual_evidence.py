"""What a run keeps of the virtual outcomes it learned from: how many, and the evidence with them beside the gate's."""

from __future__ import annotations

from typing import Any

import numpy as np

from trading_system.ml_refinement.training.backtest import Pooled
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.validation.evidence import finite


def virtual_figures(data: Dataset, pooled: Pooled, max_hold_us: int) -> dict[str, Any]:
    """The run's figures of virtual outcomes; empty where none were asked for.

    `reported_samples` and `virtual_samples` are rows that were learned from. `with_virtual_*` are the figures of all
    predictions, whoever's outcome; those without that name, which the gate judges by, are of reported outcomes alone.
    Log loss is not among them: the base rate it is compared with is that of reported outcomes.

    Args:
        data: the run's rows.
        pooled: the out-of-sample predictions of all of them.
        max_hold_us: the longest holding.
    """
    if data.virtual is None:
        return {}
    figures: dict[str, Any] = {
        "reported_samples": int(data.reported.sum()),
        "virtual_samples": int(data.virtual.sum()),
    }
    if not len(pooled.rows):
        return figures
    evidence = pooled.evidence(data, max_hold_us)
    auc, within = evidence.auc(), evidence.auc_within_weeks()
    low, high = auc.interval()
    told = {
        "rows": len(pooled.rows),
        "win_rate": float(evidence.won.mean()),
        "mean_r": float(np.mean(data.r[pooled.rows])),
        "auc": auc.value,
        "auc_low": low,
        "auc_high": high,
        "auc_t": auc.t(0.5),
        "auc_within_weeks": within.value,
        "auc_within_weeks_t": within.t(0.5),
    }
    return figures | {f"with_virtual_{name}": value for name, value in finite(told).items()}
