"""Models: fitting, calibration, files, and the registry of them."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.models.base_model import BaseModel as BaseModel
    from trading_system.ml_refinement.models.model import ArtefactModel as ArtefactModel
    from trading_system.ml_refinement.models.model_registry import ModelRegistry as ModelRegistry
    from trading_system.ml_refinement.models.regime_classifier import RegimeClassifier as RegimeClassifier
    from trading_system.ml_refinement.models.return_predictor import ReturnPredictor as ReturnPredictor
    from trading_system.ml_refinement.models.risk_predictor import RiskPredictor as RiskPredictor
    from trading_system.ml_refinement.models.signal_quality import SignalQualityModel as SignalQualityModel

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base_model": ("BaseModel",),
        "model": ("ArtefactModel",),
        "model_registry": ("ModelRegistry",),
        "regime_classifier": ("RegimeClassifier",),
        "return_predictor": ("ReturnPredictor",),
        "risk_predictor": ("RiskPredictor",),
        "signal_quality": ("SignalQualityModel",),
    },
)
