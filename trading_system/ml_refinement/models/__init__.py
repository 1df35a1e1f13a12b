"""Models: fitting, calibration, files, and the registry of them."""

from trading_system.ml_refinement.models.model import BaseModel
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.regime_classifier import RegimeClassifier
from trading_system.ml_refinement.models.return_predictor import ReturnPredictor
from trading_system.ml_refinement.models.risk_predictor import RiskPredictor
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel

__all__ = [
    "BaseModel",
    "ModelRegistry",
    "RegimeClassifier",
    "ReturnPredictor",
    "RiskPredictor",
    "SignalQualityModel",
]
