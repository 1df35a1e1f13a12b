"""The specification's place for the model interface and the model of signal quality."""

from trading_system.ml_refinement.models.model import BaseModel
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel

__all__ = ["BaseModel", "SignalQualityModel"]
