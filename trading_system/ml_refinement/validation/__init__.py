"""Validation: who is trained on when, and the figures of what was predicted."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.validation.evidence import (
        Evidence as Evidence,
        PredictionRecord as PredictionRecord,
        evidence_figures as evidence_figures,
    )
    from trading_system.ml_refinement.validation.metrics import (
        Estimate as Estimate,
        auc as auc,
        brier as brier,
        by_decile as by_decile,
        calibration_error as calibration_error,
        clustered_auc as clustered_auc,
        clustered_lift as clustered_lift,
        clustered_mean as clustered_mean,
        information_coefficient as information_coefficient,
        log_losses as log_losses,
        reliability as reliability,
        top_mean as top_mean,
    )
    from trading_system.ml_refinement.validation.walk_forward import (
        Fold as Fold,
        LeakageError as LeakageError,
        PurgedWalkForward as PurgedWalkForward,
        purged_blocks as purged_blocks,
        purged_tail as purged_tail,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "evidence": ("Evidence", "PredictionRecord", "evidence_figures"),
        "metrics": (
            "Estimate",
            "auc",
            "brier",
            "by_decile",
            "calibration_error",
            "clustered_auc",
            "clustered_lift",
            "clustered_mean",
            "information_coefficient",
            "log_losses",
            "reliability",
            "top_mean",
        ),
        "walk_forward": ("Fold", "LeakageError", "PurgedWalkForward", "purged_blocks", "purged_tail"),
    },
)
