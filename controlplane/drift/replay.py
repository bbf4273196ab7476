"""The detectors over what was recorded, with other settings: what they would have said, and what would have happened.

The same panel and the same watch as the monitor's, fed in the order of time. What happens after a verdict is not
replayed: a version that would have been replaced goes on answering here, because its successor's answers were never
recorded. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.history import Inputs
from controlplane.drift.panel import DetectorStatus, Panel, PanelSettings
from controlplane.drift.rows import LabelledRow
from controlplane.drift.seats import Seats
from controlplane.drift.settings import WatchSettings
from controlplane.drift.states import Event, IllegalTransition, State, after
from controlplane.drift.watch import Watch

MOST_CLASSES = 20  # a model with more answers is watched by its inputs alone
BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One verdict: when, by whom, about what, and where it would have led (the state before and after)."""

    at_ms: int
    detector: str
    event: Event
    about: str
    source: State
    target: State


@dataclass(slots=True, kw_only=True)
class Replay:
    """``reference_rows`` are learnt from and get no verdict; ``skipped`` of a principal that had its share."""

    reference_rows: int = 0
    rows: int = 0
    labels: int = 0
    skipped: int = 0
    verdicts: list[Said] = field(default_factory=list)
    standing: list[DetectorStatus] = field(default_factory=list)
    unarmed: dict[str, str] = field(default_factory=dict)
    state: State = State.HEALTHY

    def move(self, at_ms: int, detector: str, event: Event, about: str) -> None:
        source = self.state
        with suppress(IllegalTransition):  # as a second suspicion while WARN: it is said, and nothing moves
            self.state = after(source, event)
        said = Said(at_ms=at_ms, detector=detector, event=event, about=about, source=source, target=self.state)
        self.verdicts.append(said)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A verdict before it is known what came first."""

    at_ms: int
    detector: str
    event: Event
    about: str


def replay_inputs(
    names: Sequence[str], rows: Inputs, settings: PanelSettings, into: Replay, *, reference_rows: int, seats: Seats
) -> list[Part]:
    """The first ``reference_rows`` that count teach what is normal; the rest is watched.

    Raises:
        ValueError: rows that do not fit the names.
    """
    seated = _seated(rows, seats)
    into.skipped, into.reference_rows = len(rows) - len(seated), min(reference_rows, len(seated))
    into.rows = len(seated) - into.reference_rows
    if not into.rows:
        return []
    counted = rows.at(seated)
    titles, matrix = _with_answers(names, counted, into.reference_rows)
    panel = Panel.enrol(titles, matrix[: into.reference_rows], {}, settings)
    parts: list[Part] = []
    for start in range(into.reference_rows, len(matrix), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(matrix)))
        for verdict in panel.feed(matrix[numbers], numbers=numbers):
            at_ms = int(counted.at_ms[verdict.row])
            parts.append(Part(at_ms, verdict.detector, Event.SUSPECTED, _about(verdict.ledger())))
    into.standing, into.unarmed = panel.status(), dict(panel.unarmed)
    return parts


def replay_labels(
    version: int, labelled: Iterable[tuple[int, LabelledRow]], settings: WatchSettings, into: Replay
) -> list[Part]:
    """A verdict on the risk is given once; what comes after it is not watched."""
    watch, parts = Watch(version, settings), list[Part]()
    for number, row in labelled:
        into.labels += 1
        verdict = watch.take(number, row)
        if verdict is not None and verdict.event is not Event.REFERENCE_LEARNT:
            parts.append(Part(row.at_ms, "labelled_error", verdict.event, _about(verdict.evidence)))
    if watch.standing is None and into.labels:
        into.unarmed["labelled_error"] = "reference_too_short"
    return parts


def settle(parts: Iterable[Part], into: Replay) -> Replay:
    """Verdicts in the order of time, and where they would have led."""
    for part in sorted(parts, key=lambda each: each.at_ms):
        into.move(part.at_ms, part.detector, part.event, part.about)
    return into


def _seated(rows: Inputs, seats: Seats) -> NDArray[np.int64]:
    return np.array([place for place, who in enumerate(rows.principals) if seats.take(who, 1)], np.int64)


def _with_answers(names: Sequence[str], rows: Inputs, reference: int) -> tuple[list[str], NDArray[np.float64]]:
    """A 0/1 column for each class that the reference answered, but of two classes one says it all."""
    classes = np.unique(rows.predicted[:reference]).tolist()
    told = classes[1:] if len(classes) == 2 else classes  # noqa: PLR2004  the other one is its complement
    if len(classes) > MOST_CLASSES:
        told = []
    answers = [(rows.predicted == each).astype(np.float64) for each in told]
    return [*names, *(f"predicted={each}" for each in told)], np.column_stack((rows.inputs, *answers))


def _about(evidence: object) -> str:
    if not isinstance(evidence, dict):
        return ""
    if "stream" in evidence:
        moved = f"{evidence['stream']} {evidence['aspect']} {evidence['direction']}"
        return f"{moved}, from {evidence['before_milli'] / 1000:g} to {evidence['after_milli'] / 1000:g}"
    if "error_ppm" in evidence:
        since, band = evidence["error_ppm"] / 1e4, evidence.get("band_ppm", 0) / 1e4
        return f"error {since:.1f} % since the change, {band:.1f} % is tolerated"
    return ", ".join(f"{name} {value}" for name, value in evidence.items() if name != "detector")
