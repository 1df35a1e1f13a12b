"""The life of a planted edge as the published scores tell it, beside the truth that only the world knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from trading_system.ml_refinement.standing import IN_WORDS, NotProven
from trading_system.simulation.desk_events import PlantedDesk
from trading_system.simulation.signal_generator import SignalEvent
from trading_system.simulation.worlds import expected_auc
from worker.demo.played import Played, Scored

#: Said before anything else.
PLANTED = "The edge of this desk is planted: its truth is known, and it shows how learning goes. It is no market."
#: Codes of a proof that ended.
_ENDED = (NotProven.PROOF_EXPIRED, NotProven.HARM, NotProven.SKILL_NOT_SHOWN)
#: The phases of a life, in the order in which they come; alive and dead is the edge, which scores cannot know.
COLD, PROVISIONAL, PROVEN, PROVEN_DEAD, OVER = (
    "cold start",
    "provisional",
    "proven, alive",
    "proven, dead",
    "proof ended",
)
PHASES = (COLD, PROVISIONAL, PROVEN, PROVEN_DEAD, OVER)


@dataclass(frozen=True, slots=True)
class Phase:
    """The signals that were scored in one phase; None where there are no trades to tell it by.

    `since` is the day of the first, `thirds` are the mean R of the trades in the lowest, middle and highest third of
    its scores, `moved` is how far combined scores were moved from the desk's own, on average, and `reached` the share
    of the attainable: expected AUC of the scores over 0.5, by that of the truth. None once the edge is dead.
    """

    name: str
    since: str | None
    signals: int
    thirds: tuple[float, float, float] | None
    moved: float | None
    reached: float | None


@dataclass(frozen=True, slots=True)
class PlantedEdge:
    """What was planted, and what became of it, in the days of the world.

    `attainable` is the expected AUC of the truth itself, `served` that of the scores, over the signals that were scored
    while the edge lived; `reached` is their share over 0.5. `why` is the code of the proof's end.
    """

    planted: str
    proven_on: str | None
    died_on: str
    ended_on: str | None
    why: str | None
    attainable: float | None
    served: float | None
    reached: float | None
    phases: tuple[Phase, ...]

    @property
    def words(self) -> str:
        """How it ended, in one sentence that begins with the edge being planted."""
        found = "The planted edge was not proven while it lived"
        if self.proven_on is not None and self.proven_on < self.died_on:
            found = f"The planted edge was proven on {self.proven_on}"
        share = (
            ""
            if self.reached is None
            else (
                f", {self.reached:.0%} of what can be known was served while it lived "
                f"(expected AUC {self.served:.3f}, the truth's is {self.attainable:.3f})"
            )
        )
        if self.ended_on is None:
            end = "the proof has not ended by the end of the replay" if self.proven_on else "no proof had to end"
        else:
            days = (date.fromisoformat(self.ended_on) - date.fromisoformat(self.died_on)).days
            end = f"the proof ended on {self.ended_on}, {days} days after ({IN_WORDS[NotProven(self.why or '')]})"
        return f"{found}{share}; it died on {self.died_on}, and {end}."


def planted_edge(played: Played, desk: PlantedDesk) -> PlantedEdge:
    """Tell the life of the edge from what was published; scores are counted once, the first of each signal."""
    first = {message.signal_id: message for message in reversed(played.scored)}
    told = [(signal, first[signal["signal_id"]]) for signal in played.signals if signal["signal_id"] in first]
    ended = {outcome["signal_id"]: outcome["r_multiple"] for outcome in played.outcomes}
    by_phase: dict[str, list[tuple[SignalEvent, Scored]]] = {name: [] for name in PHASES}
    for signal, score in told:
        by_phase[_phase(signal, score, desk)].append((signal, score))
    living = [one for name in (PROVISIONAL, PROVEN) for one in by_phase[name] if one[0]["signal_id"] in desk.alive]
    attainable, served = _aucs(living, desk)
    proven = [signal["timestamp"][:10] for signal, score in told if score.proven]
    over = [(signal["timestamp"][:10], score.not_proven) for signal, score in by_phase[OVER]]
    return PlantedEdge(
        planted=_planted(desk),
        proven_on=proven[0] if proven else None,
        died_on=desk.died_on,
        ended_on=over[0][0] if over else None,
        why=over[0][1] if over else None,
        attainable=attainable,
        served=served,
        reached=_share(attainable, served),
        phases=tuple(_told(name, rows, ended, desk) for name, rows in by_phase.items()),
    )


def _planted(desk: PlantedDesk) -> str:
    edge, kinds = desk.plan.edge, " and ".join(name for name, _ in desk.plan.types)
    assert edge is not None  # noqa: S101 - a planted desk has one
    return (
        f"A planted edge, no market: signals of two kinds ({kinds}), each driven by numbers of its own among the "
        f"{len(desk.names)} that they carry. The truth ranks with AUC {edge.auc:.2f}; it dies on {desk.died_on}."
    )


def _phase(signal: SignalEvent, score: Scored, desk: PlantedDesk) -> str:
    if score.status == "cold_start":
        return COLD
    if score.proven:
        return PROVEN if signal["signal_id"] in desk.alive else PROVEN_DEAD
    return OVER if score.not_proven in _ENDED else PROVISIONAL


def _told(name: str, rows: Sequence[tuple[SignalEvent, Scored]], ended: dict[str, float], desk: PlantedDesk) -> Phase:
    known = [(score.quality_score, ended.get(signal["signal_id"])) for signal, score in rows]
    closed = [(quality, r) for quality, r in known if quality is not None and r is not None]
    combined = [(signal["combined_score"], score.combined_score) for signal, score in rows]
    moved = [abs(blended - own) for own, blended in combined if blended is not None]
    lives = all(signal["signal_id"] in desk.alive for signal, _ in rows)
    return Phase(
        name=name,
        since=rows[0][0]["timestamp"][:10] if rows else None,
        signals=len(rows),
        thirds=_thirds(closed),
        moved=round(float(np.mean(moved)), 4) if moved else None,
        reached=_share(*_aucs(rows, desk)) if lives and name != COLD else None,
    )


def _thirds(closed: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    if len(closed) < 3:
        return None
    r = np.array([one[1] for one in sorted(closed, key=lambda one: one[0])])
    lowest, middle, highest = (round(float(part.mean()), 3) for part in np.array_split(r, 3))
    return lowest, middle, highest


def _aucs(rows: Sequence[tuple[SignalEvent, Scored]], desk: PlantedDesk) -> tuple[float | None, float | None]:
    """Expected AUC of the truth and of the scores; None without rows."""
    known = [(desk.truth[signal["signal_id"]], score.quality_score) for signal, score in rows]
    pairs = np.array([(p, q) for p, q in known if q is not None], dtype=np.float64).reshape(-1, 2)
    if len(pairs) < 2:
        return None, None
    truth = pairs[:, 0]
    return round(expected_auc(truth, truth), 4), round(expected_auc(truth, pairs[:, 1]), 4)


def _share(attainable: float | None, served: float | None) -> float | None:
    if attainable is None or served is None or attainable <= 0.5:
        return None
    return round((served - 0.5) / (attainable - 0.5), 3)
