"""The worker's small worlds, from the area that owns them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "worker"))
