"""The demo of a planted edge, small: its whole life through real server, worker and trainer; and how it is told."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.simulation.desk_events import PlantedDesk, planted_desk
from trading_system.simulation.desks import DEMO_EDGE, Edge
from trading_system.simulation.worlds import expected_auc
from worker.demo import run as demo
from worker.demo.display import OTHER, show_summary
from worker.demo.edge import COLD, OVER, PHASES, PROVEN, PROVEN_DEAD, PROVISIONAL, PlantedEdge, planted_edge
from worker.demo.played import Played, Scored
from worker.demo.summary import Summary
from worker.demo.worlds import DemoWorld, edge_world
from worker.settings.schema import Settings, load_settings

TYPE = ModelType.SIGNAL_QUALITY
LOUD = Edge(auc=0.85, weights=((1.0, -0.8), (0.0, 1.0)), scopes=("own", "own"), begins=0, ends=125)
#: So strong an edge is proven at the first look with evidence enough, and its loss is harm soon.
SMALL = replace(DEMO_EDGE, days=280, own_features=3, symbol_features=1, market_features=1, edge=LOUD)
ENVIRONMENT = {
    "REFINERY_METRICS_PORT": "0",
    "REFINERY_TRAINER_METRICS_PORT": "0",
    "REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN": "130",
    "REFINERY_ML__TRAINING__STEP_SIZE_DAYS": "21",
}


@dataclass(frozen=True)
class Shown:
    """What a small life left."""

    summary: Summary
    planted: PlantedEdge
    settings: Settings
    world: DemoWorld
    said: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    world = edge_world(SMALL)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ENVIRONMENT.items():
            environment.setenv(name, value)
        settings = load_settings(state_dir=tmp_path_factory.mktemp("state") / "var")
        summary = demo.run(settings, threading.Event(), keep_running=False, world=partial(edge_world, SMALL))
    text = io.StringIO()
    show_summary(summary, Console(file=text, width=160))
    assert summary.planted is not None
    return Shown(summary, summary.planted, settings, world, text.getvalue())


@pytest.fixture
def store(shown: Shown) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(shown.settings.state_dir / "demo" / "features.db") as db:
        yield db


def labels_by(world: DemoWorld, day: str) -> int:
    return sum(len(moment.outcomes) for moment in world.timeline if moment.instant[:10] < day)


def test_nothing_is_lost_and_every_signal_has_its_features(shown: Shown, store: FeatureDatabase) -> None:
    summary = shown.summary
    assert (summary.lost, summary.duplicated, summary.dead_letters, summary.failures) == (0, 0, 0, 0)
    assert summary.signals == sum(len(moment.signals) for moment in shown.world.timeline)
    assert store.counts().incomplete == 0
    assert shown.world.desk is not None
    [first] = shown.world.timeline[0].signals[:1]
    row = store.signals.get(first["signal_id"])
    assert row is not None
    assert row.features == pytest.approx(first["features"])


def test_the_ledger_has_the_proof_while_the_edge_lives_and_its_end_after_its_death(
    shown: Shown, store: FeatureDatabase
) -> None:
    entries = store.models.promotions(1000, TYPE)[::-1]
    proofs = [entry for entry in entries if entry.action == "activate" and entry.proven]
    ends = [entry for entry in entries if entry.action == "demote"]
    died_with = labels_by(shown.world, shown.planted.died_on)
    first = store.runs.get(proofs[0].run_id or "")
    assert first is not None
    assert first.label_watermark < died_with
    assert ends
    assert ends[0].id > proofs[0].id
    after = next(entry for entry in entries if entry.id > ends[0].id and entry.run_id)
    run = store.runs.get(after.run_id or "")
    assert run is not None
    assert run.label_watermark > died_with
    assert ends[0].figures["not_proven"] in ("harm", "skill_not_shown")


def test_scores_are_moved_by_proven_models_alone_and_say_so(shown: Shown) -> None:
    phases = {phase.name: phase for phase in shown.planted.phases}
    assert phases[COLD].signals == shown.summary.cold_start > 0
    assert phases[PROVEN].signals > 0
    for name, phase in phases.items():
        assert phase.moved is None or (phase.moved > 0) is (name in (PROVEN, PROVEN_DEAD))
    thirds = phases[PROVEN].thirds
    assert thirds is not None
    assert thirds[0] < thirds[1] < thirds[2]
    assert sum(phase.signals for phase in phases.values()) == shown.summary.signals


def test_the_summary_says_first_that_the_edge_was_planted_and_how_much_of_it_was_reached(shown: Shown) -> None:
    assert shown.said.startswith("A planted edge, no market")
    assert "The planted edge was proven on" in shown.said
    assert shown.planted.reached is not None
    assert 0.5 < shown.planted.reached <= 1.0
    assert f"{shown.planted.reached:.0%} of what can be known was served" in " ".join(shown.said.split())
    assert OTHER not in shown.said
    assert shown.summary.to_json()["planted"]["died_on"] == shown.planted.died_on


def scored(signal_id: str, quality: float | None, *, proven: bool = False, why: str | None, combined: float) -> Scored:
    status = "cold_start" if quality is None else "scored"
    return Scored(signal_id, status, quality, None, proven, why, combined, b"")


@pytest.fixture(scope="module")
def desk() -> PlantedDesk:
    """Twelve days of four signals, of which the edge lives for eight."""
    return planted_desk(replace(SMALL, days=12, edge=replace(LOUD, ends=8)), 5)


def story(desk: PlantedDesk, *, proven_days: tuple[int, ...], code: str = "harm") -> PlantedEdge:
    """Day 0 is cold; on proven days the truth is served; else one half, provisional before the first, over after it."""
    messages = []
    for day, moment in enumerate(desk.timeline):
        for signal in moment.signals:
            own, name = signal["combined_score"], signal["signal_id"]
            if day == 0:
                messages.append(scored(name, None, why="no_model", combined=own))
            elif day in proven_days:
                messages.append(scored(name, desk.truth[name], proven=True, why=None, combined=own + 0.25))
            else:
                why = code if proven_days and day > proven_days[0] else "never_shown"
                messages.append(scored(name, 0.5, why=why, combined=own))
    signals = [signal for moment in desk.timeline for signal in moment.signals]
    outcomes = [outcome for moment in desk.timeline for outcome in moment.outcomes]
    return planted_edge(Played(signals, outcomes, messages, 1.0), desk)


def test_a_life_by_hand(desk: PlantedDesk) -> None:
    told = story(desk, proven_days=(4, 5, 6, 7, 8))
    phases = {phase.name: phase for phase in told.phases}
    assert tuple(phases) == PHASES
    assert [phases[name].signals for name in PHASES] == [4, 12, 16, 4, 12]
    assert [phases[name].moved for name in PHASES] == [0.0, 0.0, 0.25, 0.25, 0.0]
    assert (told.proven_on, told.died_on, told.ended_on, told.why) == ("2010-01-08", "2010-01-12", "2010-01-13", "harm")
    assert (phases[PROVISIONAL].reached, phases[PROVEN].reached) == (0.0, 1.0)
    assert phases[OVER].reached is phases[PROVEN_DEAD].reached is None
    ids = [signal["signal_id"] for moment in desk.timeline[1:8] for signal in moment.signals]
    truth = [desk.truth[one] for one in ids]
    served = [desk.truth[one] if place >= 12 else 0.5 for place, one in enumerate(ids)]
    p, q = np.array(truth), np.array(served)
    assert told.attainable == pytest.approx(expected_auc(p, p), abs=1e-4)
    assert told.served == pytest.approx(expected_auc(p, q), abs=1e-4)
    assert "proven on 2010-01-08" in told.words
    assert "the proof ended on 2010-01-13, 1 days after (what was served was worse than the base rate)" in told.words


def test_a_life_without_a_proof_or_without_its_end_is_told_as_it_was(desk: PlantedDesk) -> None:
    never = story(desk, proven_days=())
    assert never.words.startswith("The planted edge was not proven while it lived, 0% of")
    assert never.words.endswith("no proof had to end.")
    on = story(desk, proven_days=tuple(range(4, 12)))
    assert on.words.endswith("the proof has not ended by the end of the replay.")
    late = story(desk, proven_days=(10, 11))
    assert late.words.startswith("The planted edge was not proven while it lived")
