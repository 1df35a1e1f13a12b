"""What columns of bars are called, and between which numbers their values lie."""

from __future__ import annotations

PRICE_MIN, PRICE_MAX = 1e-9, 1e12
VOLUME_MAX = 1e15
COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")
