"""Monitoring: has the market moved, does what serves still hold, and is learning alive? It warns; it never promotes."""

from trading_system.ml_refinement.monitoring.checks import Alarm, Report, look

__all__ = ["Alarm", "Report", "look"]
