"""A challenger's way from its shadow to everybody: what is known of it against the champion.

Both are judged on labelled rows that the challenger was not trained on, in a canary on those of its step; in a shadow,
what its server makes of copies counts besides. Finds out and says; what follows is the loop's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from controlplane.drift.states import State
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.comparing import errors_of, feed, gate_of, live_rows
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.ports import LoopPorts
from controlplane.retraining.promotion import PromotionGate, Ruling
from controlplane.retraining.settings import PromotionSettings
from controlplane.retraining.trainer import Candidate
from controlplane.retraining.trial import Trial, resumed_trial, rows_of
from controlplane.retraining.versions import Versions


@dataclass(slots=True)
class Contest:
    """One look at it. What it counts is left in ``course``, which MUST be kept."""

    course: Course
    candidate: Candidate
    versions: Versions
    ports: LoopPorts
    promotion: PromotionSettings
    acting: ActingSettings
    gate: PromotionGate = field(init=False)
    trial: Trial | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        kept, ppm, undecided = self.course.gate, self.promotion.false_promotion_ppm, self.promotion.undecided_rows
        if not self.in_shadow:
            self.gate = gate_of(kept, ppm, undecided, self.acting.canary_margin_ppm, self.acting.canary_rows)
            return
        self.gate = gate_of(kept, ppm, undecided)
        if self.course.trial is not None:
            self.trial = resumed_trial(self.course.trial)

    @property
    def in_shadow(self) -> bool:
        return self.course.state is State.SHADOW

    def look(self) -> bool:
        """Count what came since; whether anything did. Raises ``ScoringFailed``."""
        has_rows = self._feed()
        return self._count_copies() or has_rows

    def lost_by(self) -> str:
        """Why the challenger has lost, or ""."""
        if self.gate.ruling not in (Ruling.OPEN, Ruling.PROMOTE):
            return str(self.gate.ruling)
        if self.trial is None:
            return ""
        labelled = self.ports.store.count_after(self.course.model, self.trial.since, self.trial.since_ms)
        return self.trial.fault(self.acting, labelled)

    @property
    def is_passed(self) -> bool:
        return self.gate.ruling is Ruling.PROMOTE and (self.trial is None or self.trial.is_passed(self.acting))

    def evidence(self) -> Evidence:
        said = self.gate.evidence()
        if self.trial is not None:
            return {**said, **self.trial.evidence(), "shadow_traffic": "on", "shadow_rows": self.course.live}
        if self.in_shadow:
            return {**said, "shadow_traffic": "off"}
        percent = self.acting.canary_percents[self.course.stage]
        return {**said, "canary_percent": percent, "canary_rows": self.course.live}

    def new_reference(self) -> Evidence:
        """The challenger's error on every row that it has not been trained on."""
        rows = self.ports.rows(self.course.model, self.course.version, self.course.trained_upto)
        errors = errors_of(rows, self.candidate.version, self.candidate.directory, self.ports.score)
        manifest: Evidence = {"manifest_sha256": self.candidate.manifest_digest}
        if not self.acting.canary_percents:
            manifest["canary"] = "skipped"
        return {**manifest, "reference_errors": int(errors.sum()), "reference_rows": len(rows)}

    def _feed(self) -> bool:
        """Show the gate the rows that came since; whether there were any."""
        course, candidate, store, score = self.course, self.candidate, self.ports.store, self.ports.score
        if self.gate.is_closed:
            return False
        rows = self.ports.rows(course.model, course.version, course.gated_upto)
        if not len(rows):
            return False
        copied: dict[int, int] = {}
        if self.trial is not None:
            copied = store.copied_answers(course.model, candidate.version, course.gated_upto)
        champion = errors_of(rows, course.version, self.versions.directory(course.version), score)
        challenger = errors_of(rows, candidate.version, candidate.directory, score, copied)
        feed(self.gate, champion, challenger)
        course.gate, course.gated_upto = self.gate.snapshot(), int(rows.numbers[-1])
        course.live += live_rows(rows, candidate.version) + len(copied.keys() & set(rows.numbers.tolist()))
        return True

    def _count_copies(self) -> bool:
        """Hold what its server answered since against its files; whether there was any."""
        if self.trial is None:
            return False
        copies = self.ports.store.copies(self.course.model, self.candidate.version, self.trial.upto)
        inputs = rows_of(copies)
        expected = self.ports.score(self.candidate.directory, inputs) if len(inputs) else np.empty(0, np.int64)
        ends = np.cumsum([len(copy.inputs) for copy in copies])[:-1]
        for copy, classes in zip(copies, np.split(expected, ends), strict=True) if copies else ():
            self.trial.count(copy, classes, self.acting.shadow_slow_s)
        self.course.trial = self.trial.snapshot()
        return bool(copies)
