"""One model version under watch: labelled rows in, verdicts out. Pure: rows carry their own time.

Two rules keep a single principal from speaking for everybody. At most a few of its rows count in a block, and a verdict
must stand without the principals that contribute most to it. A verdict can only come later for that, never sooner than
the detector's own crossing, so its false alarm bound (``edetector.py``) stays.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.drift.edetector import ErrorDetector, Reference, restored
from controlplane.drift.rows import PRIMARY, LabelledRow
from controlplane.drift.settings import WatchSettings
from controlplane.drift.states import Event

DETECTOR = "shiryaev-roberts-bernoulli/1"
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the watch concludes. ``evidence`` holds integers and strings only: it goes into the ledger.

    ``change_row`` is the number (see ``Watch.take``) of the last row before the estimated change; 0 without one.
    """

    event: Event
    evidence: Mapping[str, int | str]
    change_row: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """A row as the detector saw it: its number, who asked, and whether the answer was wrong."""

    number: int
    principal: str
    error: int


@dataclass(slots=True)
class Watch:
    """Feed it every labelled row of its version in the order in which the labels came."""

    version: int
    settings: WatchSettings
    reference: Reference | None = None
    skipped: int = 0  # rows above a principal's share of a block
    last_counted: int = 0  # number of the last row that the detector saw
    _detector: ErrorDetector | None = None
    _window: deque[Counted] = field(default_factory=deque)
    _block: Counter[str] = field(default_factory=Counter)
    _offered: int = 0
    _learnt: list[int] = field(default_factory=lambda: [0, 0])  # errors, rows
    _set_aside: list[str] = field(default_factory=list)
    _quiet: int | None = None  # counted rows since somebody was set aside; None when nobody is
    _doubt: int | None = None  # offered rows since then, until the suspicion has been told

    def __post_init__(self) -> None:
        self._window = deque(self._window, maxlen=self.settings.window_rows)
        if self.reference is None and self.settings.reference_errors is not None:
            self.reference = Reference(self.settings.reference_errors, self.settings.reference_rows)
        if self.reference is not None and self._detector is None:
            self._detector = self._fresh()

    def take(self, number: int, row: LabelledRow) -> Verdict | None:
        """Count one row. ``number`` grows from row to row; verdicts name the change by it."""
        if row.rung != PRIMARY or row.version != self.version or self.has_fallen:
            return None
        verdict = self._count(number, row) if self._finds_a_seat(row.principal) else None
        return verdict or self._suspicion()

    @property
    def has_fallen(self) -> bool:
        """The verdict on this version's risk has been given; it is given once."""
        return self._detector is not None and self._detector.alarmed

    @property
    def standing(self) -> tuple[float, float, float] | None:
        """(evidence, the threshold at which it is a verdict, the band), None while the reference is being learnt."""
        detector = self._detector
        return None if detector is None else (detector.evidence, 1 / detector.alpha, detector.band)

    def _finds_a_seat(self, principal: str) -> bool:
        """Whether a row of ``principal`` counts: at most so many of one principal in a block."""
        if principal in self._set_aside:
            return False
        settings = self.settings
        if self._offered >= settings.block_offered_rows or self._block.total() >= settings.block_rows:
            self._block.clear()
            self._offered = 0
        self._offered += 1
        if self._block[principal] >= settings.rows_per_principal_per_block:
            self.skipped += 1
            return False
        self._block[principal] += 1
        return True

    def _count(self, number: int, row: LabelledRow) -> Verdict | None:
        if self._detector is None:
            return self._learn(row.error)
        self.last_counted = number
        self._window.append(Counted(number, row.principal, row.error))
        if self._detector.update(row.error):
            return self._conclude()
        return self._calm()

    def _fresh(self) -> ErrorDetector:
        if self.reference is None:
            raise ValueError("no reference yet")
        return ErrorDetector(self.reference.band(), 1 / self.settings.false_alarm_rows)

    def _learn(self, error: int) -> Verdict | None:
        self._learnt[0] += error
        self._learnt[1] += 1
        if self._learnt[1] < self.settings.reference_rows:
            return None
        self.reference = Reference(*self._learnt)
        self._detector = self._fresh()
        return Verdict(event=Event.REFERENCE_LEARNT, evidence=self._reference_evidence())

    def _conclude(self) -> Verdict | None:
        """The detector has crossed: does it still without the principals who show it most?"""
        detector = self._detector
        while detector is not None and detector.alarmed:
            if len(self._set_aside) >= self.settings.corroborating_principals - 1:
                self._detector = detector
                return self._degraded(detector)
            self._set_aside.append(self._loudest(detector))
            detector = self._replayed()
        self._detector, self._quiet, self._doubt = detector, 0, 0
        return None

    def _suspicion(self) -> Verdict | None:
        """Others get a block's time to show the same; a change that all see needs no detour over a suspicion."""
        if self._doubt is None:
            return None
        self._doubt += 1
        if self._doubt < self.settings.block_rows:
            return None
        self._doubt = None
        return Verdict(
            event=Event.SUSPECTED,
            evidence={"detector": DETECTOR, "cause": "one_principal", "principal": self._set_aside[-1]},
        )

    def _counted(self) -> list[Counted]:
        return [row for row in self._window if row.principal not in self._set_aside]

    def _replayed(self) -> ErrorDetector:
        detector = self._fresh()
        detector.update_all(row.error for row in self._counted())
        return detector

    def _change_index(self, detector: ErrorDetector, rows: list[Counted]) -> int:
        """Index in ``rows`` of the first row after the change. The detector may have seen rows that have left."""
        gone = max(0, detector.rows - len(rows))
        return min(max(0, detector.change_row - gone), len(rows) - 1)

    def _loudest(self, detector: ErrorDetector) -> str:
        """The principal with the most errors beyond the band since the change."""
        rows = self._counted()
        excess: dict[str, float] = {}
        for row in rows[self._change_index(detector, rows) :]:
            excess[row.principal] = excess.get(row.principal, 0.0) + row.error - detector.band
        return max(excess, key=lambda principal: (excess[principal], principal))

    def _degraded(self, detector: ErrorDetector) -> Verdict:
        rows = self._counted()
        first = self._change_index(detector, rows)
        since = rows[first:]
        errors = sum(row.error for row in since)
        evidence: dict[str, int | str] = {
            "detector": DETECTOR,
            **self._reference_evidence(),
            "rows_since_change": len(since),
            "errors_since_change": errors,
            "principals_since_change": len({row.principal for row in since}),
            "error_ppm": errors * MILLION // len(since),
            "evidence_log10_milli": int(1000 * math.log10(detector.evidence)),
        }
        change_row = rows[first - 1].number if first else rows[0].number - 1
        return Verdict(event=Event.RISK_LEFT_BAND, evidence=evidence, change_row=change_row)

    def _calm(self) -> Verdict | None:
        """After enough quiet rows a suspicion is forgotten, and those set aside are heard again."""
        if self._quiet is None:
            return None
        self._quiet += 1
        if self._quiet < self.settings.quiet_rows:
            return None
        was_told, self._quiet, self._doubt = self._doubt is None, None, None
        self._set_aside.clear()
        self._window.clear()
        self._detector = self._fresh()
        if not was_told:
            return None
        return Verdict(event=Event.QUIET, evidence={"detector": DETECTOR, "quiet_rows": self.settings.quiet_rows})

    def _reference_evidence(self) -> dict[str, int | str]:
        if self.reference is None:
            return {}
        return {
            "reference_errors": self.reference.errors,
            "reference_rows": self.reference.rows,
            "band_ppm": round(self.reference.band() * MILLION),
            "false_alarm_rows": self.settings.false_alarm_rows,
        }

    def snapshot(self) -> dict[str, Any]:
        """Plain values; together with the rows counted since (``first_number``) ``resumed`` makes an equal watch."""
        return {
            "version": self.version,
            "reference": None if self.reference is None else [self.reference.errors, self.reference.rows],
            "skipped": self.skipped,
            "detector": None if self._detector is None else self._detector.snapshot(),
            "first_number": self._window[0].number if self._window else None,
            "block": dict(self._block),
            "offered": self._offered,
            "learnt": list(self._learnt),
            "set_aside": list(self._set_aside),
            "quiet": self._quiet,
            "doubt": self._doubt,
        }


def resumed(snapshot: Mapping[str, Any], settings: WatchSettings, counted: Iterable[Counted]) -> Watch:
    """The watch as it was when ``snapshot`` was taken; ``counted`` are the counted rows from ``first_number`` on."""
    return Watch(
        version=snapshot["version"],
        settings=settings,
        reference=None if snapshot["reference"] is None else Reference(*snapshot["reference"]),
        skipped=snapshot["skipped"],
        _detector=None if snapshot["detector"] is None else restored(snapshot["detector"]),
        _window=deque(counted),
        _block=Counter(snapshot["block"]),
        _offered=snapshot["offered"],
        _learnt=list(snapshot["learnt"]),
        _set_aside=list(snapshot["set_aside"]),
        _quiet=snapshot["quiet"],
        _doubt=snapshot["doubt"],
    )
