"""The table of features in the documentation: `python -m trading_system.ml_refinement.features.reference` prints it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition
from trading_system.ml_refinement.features.pipeline import FeaturePipeline

HEADER = "| feature | category | meaning | range | neutral | from bars | looks back | reads |"


def definition_table(definitions: Iterable[FeatureDefinition]) -> str:
    """The definitions as a Markdown table, one line a feature."""
    rows = [HEADER, "|---|---|---|---|---|---|---|---|"]
    for one in definitions:
        reach = "all bars given" if one.lookback_bars is None else str(one.lookback_bars or "")
        meaning = one.meaning.replace("|", "\\|")
        cells = (f"`{one.name}`", one.category, meaning, _range(one), f"{one.neutral:g}", str(one.min_bars or ""))
        rows.append(f"| {' | '.join((*cells, reach, ', '.join(one.dependencies)))} |")
    return "\n".join(rows) + "\n"


def _range(one: FeatureDefinition) -> str:
    low = "(-∞" if math.isinf(one.low) else f"[{one.low:g}"
    return f"{low}, ∞)" if math.isinf(one.high) else f"{low}, {one.high:g}]"


if __name__ == "__main__":
    sys.stdout.write(definition_table(FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED)).definitions()))
