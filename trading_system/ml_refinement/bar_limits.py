"""What the columns of bars are called, and between which numbers their values lie.

Apart from `bars` because a schema of events is printed from these, and must not load numpy for that.
"""

from __future__ import annotations

PRICES = ("open", "high", "low", "close")
COLUMNS = ("timestamp", *PRICES, "volume")

#: Beyond these a number cannot be meant. Coins are quoted in trillionths of others, and traded by quadrillions.
PRICE_MIN, PRICE_MAX = 1e-18, 1e12
VOLUME_MAX = 1e20
#: Relative: prices that were adjusted column by column differ in their last bits.
ROUNDING = 1e-9
