"""What the documentation says of the features is what the code says."""

from __future__ import annotations

from pathlib import Path

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, checks
from trading_system.ml_refinement.features.reference import definition_table

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")


def test_the_table_of_features_is_that_of_the_code() -> None:
    table = definition_table(FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED)).definitions())
    between = PAGE.split("<!-- definitions -->\n")[1].split("<!-- /definitions -->")[0]
    assert between == table, "python -m trading_system.ml_refinement.features.reference prints the new one"


def test_the_extractor_of_the_documentation_works_and_keeps_the_laws() -> None:
    example = PAGE.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    imports = "from trading_system.ml_refinement import *\nfrom trading_system.ml_refinement.features import *\n"
    imports += "from trading_system.ml_refinement.features.extractors import *\n"
    exec(imports + example, names)  # noqa: S102  our own page
    registry = names["registry"]
    assert isinstance(registry, FeatureRegistry)
    checks.check_extractor(registry.get("swing"))
