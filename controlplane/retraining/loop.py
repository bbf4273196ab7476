"""From verdict to promotion, one move at a time.

Every move is decided, written down, asked of the gateway (which records it in the ledger and acts), and only then taken
as done. A kill between any two of these repeats the asking with the same key, never the deciding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from controlplane.drift.edetector import Reference
from controlplane.drift.rows import LabelledRow
from controlplane.drift.settings import WatchSettings
from controlplane.drift.states import TRANSITIONS, Event, State
from controlplane.drift.store import MonitorStore
from controlplane.drift.watch import Verdict, Watch, resumed
from controlplane.retraining.course import Course, Evidence, course_from
from controlplane.retraining.promotion import PromotionGate, Ruling, resumed_gate
from controlplane.retraining.scoring import Score, ScoringFailed
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from controlplane.retraining.trainer import Candidate, Progress, Trainer, TrainingError, TrainingJob
from controlplane.retraining.versions import Versions

WATCHED = {State.LEARNING, State.HEALTHY, State.WARN, State.DATA_FAULT}
Report = Callable[[Course], Awaitable[Evidence]]


class GatewayUnavailable(Exception):
    """The gateway did not answer; the move stays pending and is asked again."""


class TransitionRefused(Exception):
    """The gateway will not have this move; a human must look."""


class Gateway(Protocol):
    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        """Have ``move`` recorded and done. MUST be idempotent by ``move["key"]``.

        Raises:
            GatewayUnavailable: ask again.
            TransitionRefused: do not.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPorts:
    """What the loop reaches the world through."""

    store: MonitorStore
    gateway: Gateway
    trainer: Trainer
    score: Score
    report: Report | None
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    watch: WatchSettings
    training: TrainingSettings
    promotion: PromotionSettings


@dataclass(slots=True)
class ModelLoop:
    """The loop of one model. ``rows`` is a directory for training data."""

    course: Course
    versions: Versions
    rows: Path
    settings: LoopSettings
    ports: LoopPorts
    watch: Watch = field(init=False)
    _training: asyncio.Task[Candidate] | None = None
    _reporting: asyncio.Task[Evidence] | None = None

    def __post_init__(self) -> None:
        snapshot = self.course.watch
        if snapshot is None:
            self.watch = Watch(self.course.version, self.settings.watch)
            if self.watch.reference is not None and self.course.state is State.LEARNING:
                errors, rows = self.watch.reference.errors, self.watch.reference.rows
                given: Evidence = {"reference": "given", "reference_errors": errors, "reference_rows": rows}
                self._hear(Verdict(event=Event.REFERENCE_LEARNT, evidence=given))
        else:
            first = snapshot["first_number"]
            counted = [] if first is None else self.ports.store.counted(self.course.model, snapshot["version"], first)
            self.watch = resumed(snapshot, self.settings.watch, counted)

    def take(self, row: LabelledRow) -> None:
        """Keep and count one labelled row. Call within the store's transaction and ``keep`` before its end."""
        number = self.ports.store.keep_labelled(row)
        if number is None or self.course.state not in WATCHED:
            return
        verdict = self.watch.take(number, row)
        if self.watch.last_counted == number:
            self.ports.store.mark_counted([number])
        if verdict is not None:
            self._hear(verdict)

    def _hear(self, verdict: Verdict) -> None:
        self.course.verdicts.append(
            {"event": str(verdict.event), "evidence": dict(verdict.evidence), "change_row": verdict.change_row}
        )

    def keep(self) -> None:
        """Write the course down; within the store's transaction."""
        self.course.watch = self.watch.snapshot()
        self.ports.store.keep_document(f"course/{self.course.model}", self.course.as_document())

    def _save(self) -> None:
        with self.ports.store.transaction():
            self.keep()

    async def step(self) -> bool:
        """Make at most one move; whether one was made.

        Raises:
            GatewayUnavailable, TransitionRefused: the move stays pending.
        """
        if self.course.pending is None and not self._decide():
            return False
        self._save()
        await self._deliver()
        return True

    async def settle(self) -> None:
        """Wait until no training and no report is under way."""
        tasks = [task for task in (self._training, self._reporting) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End what is under way; it is begun again at the next start."""
        for task in (self._training, self._reporting):
            if task is not None:
                task.cancel()
        await self.settle()

    async def _deliver(self) -> None:
        pending = self.course.pending
        if pending is None:
            return
        if pending["to"] == State.PROMOTED:
            self.versions.publish(pending["new_version"])
        await self.ports.gateway.ask(self.course.model, pending)
        evidence = pending["evidence"]
        self._entered(*self.course.acknowledge(), evidence)
        self._save()

    def _entered(self, source: State, state: State, evidence: Mapping[str, Any]) -> None:
        course = self.course
        if state is State.ROLLED_BACK:
            course.attempt += 1
            course.new_version = None
        elif state is State.PROMOTED and course.new_version is not None:
            course.version, course.new_version = course.new_version, None
            reference = Reference(evidence["reference_errors"], evidence["reference_rows"])
            self.watch = Watch(course.version, self.settings.watch, reference)
        elif state is State.HEALTHY and source in (State.PROMOTED, State.DEGRADED):
            course.episode, course.attempt, course.gate, course.report = course.episode + 1, 0, None, None
            if source is State.DEGRADED:  # a human says that it is good: the same reference, a fresh detector
                self.watch = Watch(course.version, self.settings.watch, self.watch.reference)

    def _decide(self) -> bool:
        """Fix the next move if there is one."""
        self._collect_report()
        match self.course.state:
            case State.LEARNING | State.HEALTHY | State.WARN | State.DATA_FAULT:
                return self._follow_verdicts()
            case State.DEGRADED:
                return self._retrain()
            case State.RETRAINING:
                return self._finish_training()
            case State.SHADOW:
                return self._compare()
            case State.PROMOTED:
                return self._move(Event.SETTLED, {})
            case State.ROLLED_BACK:
                return self._move(Event.CHAMPION_KEPT, {"attempts": self.course.attempt})
            case State.CANARY:
                return False  # nothing enters it yet: a won shadow promotes

    def _move(self, event: Event, evidence: Mapping[str, int | str]) -> bool:
        self.course.decide(event, {"episode": self.course.episode, **evidence})
        return True

    def _follow_verdicts(self) -> bool:
        while self.course.verdicts:
            verdict = self.course.verdicts.pop(0)
            event = Event(verdict["event"])
            if event not in TRANSITIONS[self.course.state]:
                continue  # a second suspicion while WARN
            if event is Event.RISK_LEFT_BAND:
                self.course.change_row = verdict["change_row"]
            return self._move(event, verdict["evidence"])
        return False

    def _retrain(self) -> bool:
        """Retrain when enough rows came after the change and a challenger may still be tried."""
        self._start_report()
        course, training = self.course, self.settings.training
        if not training.command or course.attempt >= training.attempts:
            return False
        needed = training.rows_after_change * training.growth**course.attempt
        if self.ports.store.count_after(course.model, course.change_row) < needed:
            return False
        numbers, _, _ = self.ports.store.rows_between(course.model, course.change_row)
        trained = len(numbers) * (100 - training.held_out_percent) // 100
        course.trained_upto = course.gated_upto = int(numbers[trained - 1])
        course.new_version = self.versions.next_version()
        course.gate = None
        rows = {"rows_after_change": len(numbers), "training_rows": trained, "attempt": course.attempt + 1}
        return self._move(Event.RETRAIN, {**rows, **self._report_evidence()})

    def _finish_training(self) -> bool:
        if self._training is None:
            self._training = asyncio.create_task(self.ports.trainer.train(self._job(), self.ports.progress))
        if not self._training.done():
            return False
        task, self._training = self._training, None
        try:
            candidate = task.result()
        except TrainingError as error:
            return self._move(Event.TRAINING_FAILED, {"cause": error.reason})
        return self._move(Event.TRAINED, {"manifest_sha256": candidate.manifest_digest, **self._report_evidence()})

    def _job(self) -> TrainingJob:
        """The job and its rows on disk; the same every time it is asked for."""
        course = self.course
        if course.new_version is None:
            raise ValueError("no version number was set aside for this training")
        _, inputs, labels = self.ports.store.rows_between(course.model, course.change_row, course.trained_upto)
        self.rows.mkdir(parents=True, exist_ok=True)
        path = self.rows / f"{course.model}-{course.episode}-{course.attempt}.npz"
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, inputs=inputs, labels=labels)
        unfinished.replace(path)
        return TrainingJob(
            key=course.job_key,
            model=course.model,
            parent_version=course.version,
            new_version=course.new_version,
            rows=path,
        )

    def _compare(self) -> bool:
        """Both versions answer the rows that the challenger was not trained on; the gate rules."""
        course, promotion = self.course, self.settings.promotion
        gate = (
            PromotionGate(promotion.false_promotion_ppm / 1_000_000, promotion.undecided_rows)
            if course.gate is None
            else resumed_gate(course.gate)
        )
        numbers, inputs, labels = self.ports.store.rows_between(course.model, course.gated_upto)
        if not len(numbers) or course.new_version is None:
            return False
        candidate = self.versions.candidate(course.new_version, course.job_key)
        if candidate is None:
            return self._move(Event.LOST, {"cause": "candidate_missing"})
        try:
            old = self.ports.score(self.versions.directory(course.version), inputs) != labels
            new = self.ports.score(candidate.directory, inputs) != labels
        except ScoringFailed:
            return self._move(Event.LOST, {"cause": "scoring_failed"})
        gate.update_all(zip(old.astype(int).tolist(), new.astype(int).tolist(), strict=True))
        course.gate, course.gated_upto = gate.snapshot(), int(numbers[-1])
        if gate.ruling is Ruling.OPEN:
            self._save()
            return False
        if gate.ruling is not Ruling.PROMOTE:
            return self._move(Event.LOST, {"cause": str(gate.ruling), **gate.evidence()})
        return self._move(Event.WON, {**gate.evidence(), **self._new_reference(candidate)})

    def _new_reference(self, candidate: Candidate) -> Evidence:
        """The challenger's error on every row that it has not been trained on."""
        _, inputs, labels = self.ports.store.rows_between(self.course.model, self.course.trained_upto)
        errors = int((self.ports.score(candidate.directory, inputs) != labels).sum())
        manifest: Evidence = {"manifest_sha256": candidate.manifest_digest, "canary": "skipped"}
        return {**manifest, "reference_errors": errors, "reference_rows": len(labels), **self._report_evidence()}

    def _start_report(self) -> None:
        if self.ports.report is not None and self.course.report is None and self._reporting is None:
            self._reporting = asyncio.ensure_future(self.ports.report(self.course))

    def _collect_report(self) -> None:
        if self._reporting is not None and self._reporting.done():
            task, self._reporting = self._reporting, None
            failed = task.cancelled() or task.exception() is not None
            self.course.report = {"report": "failed"} if failed else task.result()

    def _report_evidence(self) -> Evidence:
        return self.course.report or {"report": "none_yet"}


def open_loop(
    model: str, version: int, settings: LoopSettings, ports: LoopPorts, *, models_root: Path, rows: Path
) -> ModelLoop:
    """The loop of ``model`` where it was left, or a new one that watches ``version``."""
    kept = ports.store.document(f"course/{model}")
    course = Course(model=model, version=version) if kept is None else course_from(kept)
    return ModelLoop(course, Versions(models_root, model), rows, settings, ports)
