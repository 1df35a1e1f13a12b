"""Models: fitting, calibration, files, and the registry of them."""

from trading_system.ml_refinement.models.base_model import BaseModel, SignalQualityModel
from trading_system.ml_refinement.models.model_registry import ModelRegistry

__all__ = ["BaseModel", "ModelRegistry", "SignalQualityModel"]
