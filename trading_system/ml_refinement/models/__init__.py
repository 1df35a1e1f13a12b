"""Models: fitting, calibration, files, and the registry of them."""

from trading_system.ml_refinement.models.model import BaseModel
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel

__all__ = ["BaseModel", "ModelRegistry", "SignalQualityModel"]
