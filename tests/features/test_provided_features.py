# ruff: noqa: PD011  the values of a FeatureBatch are an array
"""What only the desk knows becomes features where it is listed, and nothing is another where it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, FeatureRequest, checks
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    ProvidedFeatures,
    SignalBatch,
    SignalMetadata,
)
from trading_system.ml_refinement.features.feature_registry import TakenNameError

NAMES = ["zeta", "funding", "basis"]
SETS = (FeatureSet.MINIMAL, FeatureSet.STANDARD, FeatureSet.EXTENDED)
ALONE = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["provided_features"], provided=NAMES)
FRAME = checks.sample_bars(1).to_frame()
REQUESTS = checks._mixed()


def request(provided: Any = None, **changes: Any) -> FeatureRequest:
    return FeatureRequest("s", 10, SignalMetadata(), Bars.empty(), provided=provided, **changes)


def version(**fields: Any) -> str:
    return FeaturePipeline(FeatureConfig(**fields)).feature_version


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (FeatureConfig(feature_set=FeatureSet.MINIMAL), "minimal-75a868c7"),
        (FeatureConfig(), "standard-e084b247"),
        (FeatureConfig(feature_set=FeatureSet.EXTENDED), "extended-12519aba"),
        (FeatureConfig(technical_lookbacks=[3, 7], include_news_features=False), "standard-a071a9ea"),
        (
            FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["signal_metadata", "rsi_14"]),
            "custom-03fbb409",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_version_of_before_there_were_provided_features_is_what_it_was(config: FeatureConfig, known: str) -> None:
    assert FeaturePipeline(config).feature_version == known


def test_without_the_setting_vectors_are_to_the_bit_what_they_are_without_what_the_desk_sent() -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    assert len(pipeline.names) == 55
    sent = pipeline.extract_batch(REQUESTS)
    unsent = pipeline.extract_batch([one._replace(provided=None) for one in REQUESTS])
    assert any(one.provided for one in REQUESTS)
    assert sent.values.tobytes() == unsent.values.tobytes()
    # Rounded, since the last bits of logarithms are the processor's.
    known = "3ee8d8f620ee2356453b296dacbc1a06ad4be3012678510ed47a19f3cc40df8b"
    assert sha256(sent.values.round(6).tobytes()).hexdigest() == known


@pytest.mark.parametrize("feature_set", SETS)
def test_listed_names_are_features_in_the_listed_order_after_those_of_the_set(feature_set: FeatureSet) -> None:
    plain = FeaturePipeline(FeatureConfig(feature_set=feature_set))
    pipeline = FeaturePipeline(FeatureConfig(feature_set=feature_set, provided=NAMES))
    assert pipeline.names == (*plain.names, *NAMES)
    requests = [
        one._replace(provided={"basis": 1.0 * at, "zeta": -2.5, "other": 9.0}) for at, one in enumerate(REQUESTS)
    ]
    batch = pipeline.extract_batch(requests)
    assert batch.complete.all()
    assert batch.values[:, :-3].tobytes() == plain.extract_batch(REQUESTS).values.tobytes()
    expected = np.column_stack((np.full(len(requests), -2.5), np.zeros(len(requests)), np.arange(len(requests))))
    np.testing.assert_array_equal(batch.values[:, -3:], expected)


def test_a_missing_value_is_neutral_and_the_vector_complete() -> None:
    pipeline = FeaturePipeline(replace(ALONE, provided_neutral={"funding": -1.5}))
    told: list[Any] = [None, {}, {"unlisted": 3.0}, {"zeta": 1.0}, {"basis": 7.0, "funding": 0.0}]
    batch = pipeline.extract_batch([request(one) for one in told])
    assert batch.values.tolist() == [[0, -1.5, 0], [0, -1.5, 0], [0, -1.5, 0], [1, -1.5, 0], [0, 0, 7]]
    assert batch.complete.all()
    assert batch.failures == {}


def test_a_custom_set_has_the_whole_family_or_single_names() -> None:
    assert FeaturePipeline(ALONE).names == tuple(NAMES)
    chosen = replace(ALONE, custom_features=["basis", "rsi_14", "zeta"])
    assert FeaturePipeline(chosen).names == ("rsi_14", "zeta", "basis")
    batch = FeaturePipeline(chosen).extract_batch([request({"basis": 3.0, "funding": 2.0, "zeta": 1.0})])
    assert batch.values[0, 1:].tolist() == [1.0, 3.0]
    unnamed = replace(ALONE, custom_features=["rsi_14"])
    assert FeaturePipeline(unnamed).names == ("rsi_14",)
    with pytest.raises(ValueError, match="provided_features is asked for, and provided lists none"):
        FeaturePipeline(replace(ALONE, provided=[]))


def test_only_features_that_are_made_from_bars_read_bars() -> None:
    def reads(*names: str) -> bool:
        return FeaturePipeline(replace(ALONE, custom_features=list(names))).reads_bars

    assert not reads("provided_features")
    assert not reads("provided_features", "signal_metadata", "news_features")
    assert reads("zeta", "rsi_14")
    assert reads("market_trend")
    assert FeaturePipeline(FeatureConfig(provided=NAMES)).reads_bars


def test_an_extractor_of_ones_own_that_declares_nothing_reads_bars() -> None:
    class Batched(BaseFeatureExtractor):
        name = "undeclared"
        feature_names = ["mine"]  # type: ignore[assignment]  # noqa: RUF012

        def extract(self, data: Any) -> dict[str, float]:
            raise NotImplementedError

        def compute(self, batch: SignalBatch) -> np.ndarray:
            return np.ones((len(batch), 1))

    registry = FeatureRegistry()
    registry.register(Batched())
    assert FeaturePipeline(replace(ALONE, custom_features=["mine", "zeta"]), registry).reads_bars


def test_the_feature_version_knows_names_their_order_and_what_stands_for_them() -> None:
    known = [
        version(),
        version(provided=["a", "b"]),
        version(provided=["b", "a"]),
        version(provided=["a", "c"]),
        version(provided=["a"]),
        version(provided=["a", "b"], provided_neutral={"a": 1.0}),
        version(provided=["a", "b"], provided_neutral={"b": 1.0}),
        version(provided=["a", "b"], feature_set=FeatureSet.EXTENDED),
    ]
    assert len(set(known)) == len(known)
    assert version(provided=["a", "b"], provided_neutral={"a": 0.0}) == version(provided=["a", "b"])


@pytest.mark.parametrize(
    ("name", "what", "config"),
    [
        ("rsi_14", "feature", FeatureConfig()),
        ("rsi_14", "feature", FeatureConfig(feature_set=FeatureSet.MINIMAL)),
        ("news_count", "feature", FeatureConfig(include_news_features=False)),
        ("technical_score", "feature", ALONE),
        ("price_vs_ma33", "feature", FeatureConfig(technical_lookbacks=[33])),
        ("trend_features", "family of features", FeatureConfig()),
        ("provided_features", "family of features", FeatureConfig()),
        ("r_multiple", "column", FeatureConfig()),
        ("label_time", "column", FeatureConfig()),
    ],
)
def test_a_name_that_is_taken_is_refused_in_one_line(name: str, what: str, config: FeatureConfig) -> None:
    with pytest.raises(TakenNameError, match=f"^there is a {what} called '{name}' already; choose another name$"):
        FeaturePipeline(replace(config, provided=["free", name]))
    FeaturePipeline(replace(config, provided=["free", f"{name}_of_ours"]))


def test_a_name_of_ones_own_extractor_is_taken_too_and_the_registry_stays_as_it_is() -> None:
    class Desk(BaseFeatureExtractor):
        name = "desk"
        feature_names = ["edge"]  # type: ignore[assignment]  # noqa: RUF012

        def extract(self, data: Any) -> dict[str, float]:
            return {"edge": float(data.get("features", {}).get("zeta", -1.0))}

    registry = FeatureRegistry()
    registry.register(Desk())
    before = registry.get_all_feature_names()
    with pytest.raises(TakenNameError, match="feature called 'edge'"):
        FeaturePipeline(FeatureConfig(provided=["edge"]), registry)
    pipeline = FeaturePipeline(replace(ALONE, custom_features=["provided_features", "desk"]), registry)
    assert registry.get_all_feature_names() == before
    assert pipeline.extract_batch([request({"zeta": 4.0}), request()]).values[:, 0].tolist() == [4.0, -1.0]
    assert pipeline.extract_features("s", FRAME, {"features": {"zeta": 5.0}})["edge"] == 5.0


@pytest.mark.parametrize(
    "fields",
    [
        {"provided": ["a", "b", "a"]},
        {"provided": ["Funding"]},
        {"provided": ["1a"]},
        {"provided": ["a b"]},
        {"provided": ["a\n"]},
        {"provided": [""]},
        {"provided": ["a" * 65]},
        {"provided": ["é"]},
        {"provided": [f"f{number}" for number in range(65)]},
        {"provided": "abc"},
        {"provided": ["a"], "provided_neutral": {"b": 1.0}},
        {"provided": ["a"], "provided_neutral": {"a": math.nan}},
        {"provided": ["a"], "provided_neutral": {"a": math.inf}},
        {"provided": ["a"], "provided_neutral": {"a": 1e16}},
    ],
    ids=str,
)
def test_what_cannot_be_provided_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FeatureConfig(**fields)


def test_sixty_four_names_of_sixty_four_characters_are_allowed() -> None:
    names = [f"f{number:063d}" for number in range(64)]
    pipeline = FeaturePipeline(replace(ALONE, provided=names))
    told = {name: float(at) for at, name in enumerate(names)}
    assert pipeline.extract_batch([request(told)] * 70).values.tolist() == [list(map(float, range(64)))] * 70


@pytest.mark.parametrize(
    "features",
    [
        {"zeta": math.nan},
        {"zeta": math.inf},
        {"zeta": "1"},
        {"zeta": None},
        {"zeta": True},
        {"zeta": 1e16},
        {"zeta": 10**400},
        {"zeta": [1.0]},
        "text",
        [1.0, 2.0, 3.0],
        {f"f{number}": 1.0 for number in range(65)},
    ],
    ids=lambda given: str(given)[:20],
)
def test_what_an_event_could_not_bring_is_neutral_and_makes_the_vector_incomplete(features: Any) -> None:
    metadata = {"features": features, "conviction": "HIGH"}
    got = FeaturePipeline(replace(ALONE, custom_features=["provided_features", "conviction_high"])).extract_features(
        "s", FRAME, metadata
    )
    assert got == {"conviction_high": 1.0, "zeta": 0.0, "funding": 0.0, "basis": 0.0}
    assert got.incomplete.startswith("features: ")
    alone = ProvidedFeatures(NAMES).extract(metadata)
    assert alone == {"zeta": 0.0, "funding": 0.0, "basis": 0.0}
    assert alone.incomplete.startswith("features: ")  # type: ignore[attr-defined]
    assert FeaturePipeline().extract_features("s", FRAME, metadata).incomplete == ""


def test_beside_a_bad_value_the_sound_ones_count() -> None:
    metadata = {"features": {"zeta": math.nan, "funding": 2, "Bad Name": 1.0, "unlisted": math.inf}}
    got = FeaturePipeline(ALONE).extract_features("s", FRAME, metadata)
    assert got == {"zeta": 0.0, "funding": 2.0, "basis": 0.0}
    for said in ("'zeta' is nan", "'Bad Name' is no name", "'unlisted' is inf"):
        assert said in got.incomplete
    assert "funding" not in got.incomplete


def test_a_notebook_needs_no_bars_where_no_feature_does() -> None:
    pipeline = FeaturePipeline(ALONE)
    for bars in (FRAME, pd.DataFrame(), None):
        got = pipeline.extract_features("s", bars, {"features": {"zeta": np.float32(0.5), "basis": np.int64(3)}})  # type: ignore[arg-type]
        assert got == {"zeta": 0.5, "funding": 0.0, "basis": 3.0}
        assert [type(value) for value in got.values()] == [float] * 3
        assert got.incomplete == ""


def test_a_row_of_a_frame_may_hold_them_or_not() -> None:
    rows = pd.DataFrame({"conviction": ["HIGH", "LOW"], "features": [{"zeta": 2.0}, np.nan]})
    got = [FeaturePipeline(ALONE).extract_features("s", FRAME, rows.iloc[at]) for at in (0, 1)]  # type: ignore[arg-type]
    assert [(one["zeta"], one.incomplete) for one in got] == [(2.0, ""), (0.0, "")]


@pytest.mark.parametrize("bad", [math.nan, -math.inf, "text", None])
def test_a_value_that_is_no_number_takes_no_other_signal_with_it(bad: Any) -> None:
    batch = FeaturePipeline(ALONE).extract_batch([request({"zeta": 1.0}), request({"zeta": bad, "basis": 2.0})] * 40)
    assert batch.complete.tolist() == [True, False] * 40
    assert batch.values.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]] * 40
    assert list(batch.failures) == ["provided_features"]


def test_definitions_say_what_they_are() -> None:
    pipeline = FeaturePipeline(replace(ALONE, provided_neutral={"basis": 2.0}))
    assert [(one.name, one.category, one.neutral, one.dependencies) for one in pipeline.definitions()] == [
        ("zeta", "signal", 0.0, ("features",)),
        ("funding", "signal", 0.0, ("features",)),
        ("basis", "signal", 2.0, ("features",)),
    ]
    assert pipeline.registry.get("provided_features").category == "signal"
    assert "2 where it is missing" in pipeline.definitions()[2].meaning
