"""What a demo can play: the real market, and a desk whose edge is planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet
from trading_system.simulation.desk_events import PlantedDesk, planted_desk
from trading_system.simulation.desks import DEMO_EDGE, Plan
from trading_system.simulation.market_data import MarketDataMissing, load_indexes, load_stocks
from trading_system.simulation.timeline import Moment, timeline_of
from worker.errors import RefineryError

#: What the learning on real prices is told where the settings say nothing else. Five symbols give some 130 trades a
#: year: a window of a year would leave a model fewer rows than it needs, and evidence in steps of three weeks one or
#: two each.
MIN_NEW_SAMPLES, TRAIN_WINDOW_DAYS, STEP_SIZE_DAYS = 100, 3 * 365, 91
#: On the planted desk: a training every five weeks, and half as many windows in each, for the time they take.
EDGE_MIN_NEW_SAMPLES, EDGE_STEP_SIZE_DAYS = 150, 63
_EDGE_SEED = 17


@dataclass(frozen=True)
class DemoWorld:
    """What is played, and what the demo's processes are told for it where the settings say nothing else."""

    title: str
    timeline: Sequence[Moment]
    min_new_samples: int
    training: Mapping[str, int]
    #: Bars that the worker finds in its market-data directory, by symbol.
    market: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    #: The features that this world has; None for those of the settings.
    features: FeatureConfig | None = None
    #: What is planted, where something is.
    desk: PlantedDesk | None = None


def real_prices() -> DemoWorld:
    """Thirteen years of five shares.

    Raises:
        RefineryError: the packages with the prices are missing.
    """
    try:
        stocks, indexes = load_stocks(), load_indexes()
    except MarketDataMissing as missing:
        raise RefineryError(str(missing)) from missing
    return DemoWorld(
        "thirteen years of real prices",
        timeline_of(stocks),
        MIN_NEW_SAMPLES,
        {"train_window_days": TRAIN_WINDOW_DAYS, "step_size_days": STEP_SIZE_DAYS},
        market=stocks | indexes,
    )


def edge_world(plan: Plan = DEMO_EDGE) -> DemoWorld:
    """A desk with a planted edge that lives and dies; its signals carry their features, and no bars."""
    desk = planted_desk(plan, _EDGE_SEED)
    provided = FeatureConfig(
        feature_set=FeatureSet.CUSTOM, custom_features=["provided_features"], provided=list(desk.names)
    )
    return DemoWorld(
        "a desk with a planted edge",
        desk.timeline,
        EDGE_MIN_NEW_SAMPLES,
        {"step_size_days": EDGE_STEP_SIZE_DAYS},
        features=provided,
        desk=desk,
    )
