"""From verdict to promotion, one move at a time.

Every move is decided, written down, asked of the gateway (which records it in the ledger and acts), and only then taken
as done. A kill between any two of these repeats the asking with the same key, never the deciding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.drift.edetector import Reference
from controlplane.drift.hysteresis import BlockSettings, Hysteresis, resumed_hysteresis
from controlplane.drift.rows import LabelledRow, Prediction
from controlplane.drift.settings import WatchSettings
from controlplane.drift.states import TRANSITIONS, Event, Serving, State
from controlplane.drift.watch import Verdict, Watch, resumed
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.comparing import errors_of, feed, gate_of
from controlplane.retraining.contest import Contest
from controlplane.retraining.course import Course, Evidence, course_from
from controlplane.retraining.ports import GatewayUnavailable, LoopPorts, TransitionRefused
from controlplane.retraining.promotion import Ruling
from controlplane.retraining.scoring import ScoringFailed
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from controlplane.retraining.trainer import Candidate, TrainingError, TrainingJob, training_error_for
from controlplane.retraining.trial import Trial
from controlplane.retraining.versions import Versions

WATCHED = {State.LEARNING, State.HEALTHY, State.WARN, State.DATA_FAULT}
DAY_MS = 24 * 3600 * 1000
LOAD_FAILED = "load_failed"  # the gateway's word for a model server that has tried and will not load a version
ANSWERS = {"healthy": Event.REVIEWED, "fallback": Event.FALLBACK_CHOSEN, "retrain": Event.RETRAIN_GRANTED}
"""What a human may answer while a version is degraded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    watch: WatchSettings
    training: TrainingSettings
    promotion: PromotionSettings
    acting: ActingSettings = field(default_factory=ActingSettings)
    blocks: BlockSettings = field(default_factory=BlockSettings)


@dataclass(slots=True)
class ModelLoop:
    """The loop of one model. ``rows`` is a directory for training data."""

    course: Course
    versions: Versions
    rows: Path
    settings: LoopSettings
    ports: LoopPorts
    watch: Watch = field(init=False)
    blocks: Hysteresis = field(init=False)
    _training: asyncio.Task[Candidate] | None = None
    _reporting: asyncio.Task[Evidence] | None = None

    def __post_init__(self) -> None:
        self.blocks = resumed_hysteresis(self.course.blocks, self.settings.blocks)
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

    def see(self, prediction: Prediction) -> None:
        """Rows as they were asked for, whoever answered.

        Call within the store's transaction, and ``keep`` before its end.
        """
        course = self.course
        broken = self.ports.broken(course.version, prediction.inputs).tolist()
        for event, evidence in self.blocks.take(prediction.principal, broken, course.state, course.serving):
            self._hear(Verdict(event=event, evidence=evidence))

    def suspect(self, evidence: Mapping[str, int | str]) -> None:
        """A detector found that something moved. As ``see``."""
        self.blocks.suspect(self.course.state)
        self._hear(Verdict(event=Event.SUSPECTED, evidence=evidence))

    def take(self, row: LabelledRow) -> None:
        """Keep and count one labelled row. As ``see``.

        A row that the version was not made for says nothing about the version: it is kept and not counted.
        """
        number = self.ports.store.keep_labelled(row)
        if number is None or self.course.state not in WATCHED:
            return
        if self.ports.broken(self.course.version, row.inputs[np.newaxis])[0]:
            return
        verdict = self.watch.take(number, row)
        if self.watch.last_counted == number:
            self.ports.store.mark_counted([number])
        if verdict is None or verdict.event is Event.QUIET:  # blocks say when it is quiet, for all who suspect
            return
        if verdict.event is Event.SUSPECTED:
            self.suspect(verdict.evidence)
        else:
            self._hear(verdict)

    def _hear(self, verdict: Verdict) -> None:
        self.course.verdicts.append(
            {"event": str(verdict.event), "evidence": dict(verdict.evidence), "change_row": verdict.change_row}
        )

    def keep(self) -> None:
        """Write the course down; within the store's transaction."""
        self.course.watch, self.course.blocks = self.watch.snapshot(), self.blocks.snapshot()
        self.ports.store.keep_document(f"course/{self.course.model}", self.course.as_document())

    def _save(self) -> None:
        with self.ports.store.transaction():
            self.keep()

    async def step(self) -> bool:
        """Make at most one move; whether one was made.

        Raises:
            GatewayUnavailable, TransitionRefused: the move stays pending.
        """
        await self._listen()
        if self.course.pending is None and not self._decide():
            return False
        self._save()
        try:
            await self._deliver()
        except OSError as error:  # a version that is gone, a folder that nobody may write to
            raise TransitionRefused(f"its files are not as they were: {error}") from error
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
        is_trial = pending["to"] == State.SHADOW and "percent" in pending
        if is_trial or pending["to"] in (State.CANARY, State.PROMOTED):
            self._publish(pending["new_version"])
        try:
            await self.ports.gateway.ask(self.course.model, pending)
        except GatewayUnavailable as error:
            if not is_trial or error.reason != LOAD_FAILED:
                raise
            self._refuse_trial(error.reason)  # recorded, and its server will not have it: that is an answer
        if is_trial and self.course.trial is not None:
            self.course.trial["since_ms"] = int(self.ports.wall_clock() * 1000)
        if pending["to"] == State.ROLLED_BACK and self.course.new_version is not None:
            self.versions.withdraw(self.course.new_version)
        evidence = pending["evidence"]
        self._entered(self.course.acknowledge(), evidence)
        self._save()

    def tries(self, version: int) -> bool:
        """Whether copies of calls go to ``version`` now."""
        course = self.course
        asked = course.state is State.RETRAINING and course.pending is not None
        return course.trial is not None and course.new_version == version and (course.state is State.SHADOW or asked)

    def _refuse_trial(self, reason: str) -> None:
        if self.course.trial is not None:
            self.course.trial["refused"] = reason

    def _publish(self, version: int) -> None:
        course = self.course
        rows = self.ports.rows(course.model, course.version, course.change_row, course.trained_upto)
        if len(rows):
            self.ports.describe(version, rows.inputs)
        self.versions.publish(version)

    async def _listen(self) -> None:
        """What a human says is heard once, and only while a version is degraded. Not hearing it stops nothing."""
        course = self.course
        if course.state is not State.DEGRADED or course.pending is not None:
            return
        try:
            said = await self.ports.gateway.review(course.model)
        except (GatewayUnavailable, TransitionRefused):
            return
        if said is not None and said.id != course.heard:
            course.heard, course.answer = said.id, said.answer

    def _entered(self, event: Event, evidence: Mapping[str, Any]) -> None:
        course = self.course
        match event:
            case Event.RETRAIN:
                course.trainings += 1
            case Event.RETRAIN_GRANTED:
                course.attempt = 0
                course.asked.clear()
                course.found_trainer()
            case Event.TRAINED:
                course.live = 0
                course.found_trainer()
            case Event.TRAINING_PUT_OFF:
                course.put_off(int(self.ports.wall_clock() * 1000))
            case Event.SHADOW_PASSED | Event.STEP_PASSED:
                self._begin_stage(0 if event is Event.SHADOW_PASSED else course.stage + 1)
            case Event.LOST | Event.TRAINING_FAILED:
                course.attempt, course.new_version = self._attempts_after(event), None
                course.found_trainer()
            case Event.WON if course.new_version is not None:
                course.version, course.new_version = course.new_version, None
                reference = Reference(evidence["reference_errors"], evidence["reference_rows"])
                self.watch = Watch(course.version, self.settings.watch, reference)
            case Event.SETTLED:
                course.begin_anew()
            case Event.REVIEWED:  # a human says that it is good: the same reference, a fresh detector
                course.begin_anew()
                self.watch = Watch(course.version, self.settings.watch, self.watch.reference)
            case _:
                pass

    def _attempts_after(self, event: Event) -> int:
        """Where candidates cannot be scored, one is enough: the next would be no better known."""
        training = self.settings.training
        is_last = event is Event.LOST and not training.is_scored
        return training.attempts if is_last else self.course.attempt + 1

    def _begin_stage(self, stage: int) -> None:
        """Only rows that are labelled after the share was given count in a step."""
        course = self.course
        course.stage, course.live, course.gate = stage, 0, None
        course.gated_upto = self.ports.store.last_number(course.model)

    def _decide(self) -> bool:
        """Fix the next move if there is one."""
        self._collect_report()
        match self.course.state:
            case State.LEARNING | State.HEALTHY | State.WARN | State.DATA_FAULT:
                return self._follow_verdicts()
            case State.DEGRADED:
                return self._obey() or self._judge_fallback() or self._ask_human() or self._retrain()
            case State.RETRAINING:
                return self._finish_training()
            case State.SHADOW | State.CANARY:
                return self._compare()
            case State.PROMOTED:
                return self._move(Event.SETTLED, {})
            case State.ROLLED_BACK:
                return self._move(Event.CHAMPION_KEPT, {"attempts": self.course.attempt})

    def _move(self, event: Event, evidence: Mapping[str, int | str], percent: int | None = None) -> bool:
        self.course.decide(event, {"episode": self.course.episode, **evidence}, percent)
        return True

    def _follow_verdicts(self) -> bool:
        while self.course.verdicts:
            verdict = self.course.verdicts.pop(0)
            event = Event(verdict["event"])
            if event not in TRANSITIONS[self.course.state]:
                continue  # a second suspicion while WARN
            if event is Event.RISK_LEFT_BAND:
                self.course.change_row = verdict["change_row"]
                self.course.fallback_upto = self.ports.store.last_number(self.course.model)
            return self._move(event, verdict["evidence"])
        return False

    def _obey(self) -> bool:
        """What a human answered, if anything."""
        self._start_report()
        answer, self.course.answer = self.course.answer, ""
        event = ANSWERS.get(answer)
        if event is None or (event is Event.FALLBACK_CHOSEN and self.course.serving is Serving.FALLBACK):
            return False
        return self._move(event, {"review": self.course.heard})

    def _judge_fallback(self) -> bool:
        """The fallback answers when it is credibly better on the rows that came after the verdict; see promotion.py."""
        course, acting = self.course, self.settings.acting
        if acting.fallback is None or course.serving is Serving.FALLBACK:
            return False
        gate = gate_of(course.fallback_gate, acting.false_fallback_ppm, acting.fallback_rows)
        if gate.is_closed:
            return False
        rows = self.ports.rows(course.model, course.version, course.fallback_upto)
        rows = rows.where(rows.versions == course.version)
        if not len(rows):
            return False
        try:
            fallback = errors_of(rows, 0, acting.fallback, self.ports.score)
        except ScoringFailed:
            return False
        feed(gate, (rows.predicted != rows.labels).astype(np.int64), fallback)
        course.fallback_gate, course.fallback_upto = gate.snapshot(), int(rows.numbers[-1])
        self._save()
        return gate.ruling is Ruling.PROMOTE and self._move(
            Event.FALLBACK_BETTER,
            {
                "gate": "paired-betting/1",
                "paired_rows": gate.rows,
                "version_errors": gate.champion_errors,
                "fallback_errors": gate.challenger_errors,
                "false_fallback_ppm": acting.false_fallback_ppm,
            },
        )

    def _ask_human(self) -> bool:
        """Each question once in an episode. The loop goes on meanwhile with what it may do alone."""
        course, training = self.course, self.settings.training
        questions = {
            "no_trainer": not training.is_on,
            "attempts_exhausted": course.attempt >= training.attempts,
            "trainer_unavailable": course.put_offs >= training.attempts,
            "fallback_not_better": course.fallback_gate is not None
            and course.serving is not Serving.FALLBACK
            and course.fallback_gate["ruling"] in (Ruling.REFUSE_WORSE, Ruling.REFUSE_UNDECIDED),
        }
        for cause, holds in questions.items():
            if holds and cause not in course.asked:
                course.asked.append(cause)
                return self._move(Event.HUMAN_ASKED, {"cause": cause, "attempts": course.attempt})
        return False

    def _retrain(self) -> bool:
        """Retrain when enough rows came after the change and a challenger may still be tried."""
        course, training = self.course, self.settings.training
        if not training.is_on or course.attempt >= training.attempts:
            return False
        needed = training.rows_after_change * training.growth**course.attempt
        if self.ports.store.count_after(course.model, course.change_row) < needed:
            return False
        now_ms = int(self.ports.wall_clock() * 1000)
        if course.waits_for_trainer(now_ms):
            return False
        course.jobs_ms = [began for began in course.jobs_ms if now_ms - began < DAY_MS]
        if len(course.jobs_ms) >= self.settings.acting.jobs_per_day:
            return False
        numbers = self.ports.rows(course.model, course.version, course.change_row).numbers
        if len(numbers) < needed:
            return False
        trained = len(numbers) * (100 - training.held_out_percent) // 100
        course.trained_upto = course.gated_upto = int(numbers[trained - 1])
        course.new_version = self.versions.next_version()
        course.gate = None
        course.jobs_ms.append(now_ms)
        rows = {"rows_after_change": len(numbers), "training_rows": trained, "attempt": course.attempt + 1}
        return self._move(Event.RETRAIN, {**rows, **self._report_evidence()})

    def _finish_training(self) -> bool:
        if self._training is None:
            try:
                job = self._job()
            except OSError as error:
                return self._move(Event.TRAINING_FAILED, {"cause": training_error_for(error).reason})
            self._training = asyncio.create_task(self.ports.trainer.train(job, self.ports.progress))
        if not self._training.done():
            return False
        task, self._training = self._training, None
        try:
            candidate = task.result()
        except TrainingError as error:
            event = Event.TRAINING_FAILED if error.was_tried else Event.TRAINING_PUT_OFF
            return self._move(event, {"cause": error.reason})
        percent = (self.settings.acting.shadow_percent or None) if self.settings.training.is_scored else None
        since = self.ports.store.last_number(self.course.model)
        self.course.trial = None if percent is None else Trial(since).snapshot()
        return self._move(Event.TRAINED, {**candidate.facts, **self._report_evidence()}, percent)

    def _job(self) -> TrainingJob:
        """The job and its rows on disk; the same every time it is asked for."""
        course = self.course
        if course.new_version is None:
            raise ValueError("no version number was set aside for this training")
        rows = self.ports.rows(course.model, course.version, course.change_row, course.trained_upto)
        self.rows.mkdir(parents=True, exist_ok=True)
        path = self.rows / f"{course.model}-{course.episode}-{course.trainings}.npz"
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, inputs=rows.inputs, labels=rows.labels)
        unfinished.replace(path)
        return TrainingJob(
            key=course.job_key,
            model=course.model,
            parent_version=course.version,
            new_version=course.new_version,
            rows=path,
        )

    def _compare(self) -> bool:
        """What follows from what is known of the challenger, and of its server."""
        course = self.course
        if course.new_version is None:
            return False
        candidate = self.versions.candidate(course.new_version, course.job_key)
        if candidate is None:
            return self._move(Event.LOST, {"cause": "candidate_missing"})
        if not self.settings.training.is_scored:
            return self._move(Event.LOST, {"cause": "not_scored", "manifest_sha256": candidate.manifest_digest})
        contest = Contest(course, candidate, self.versions, self.ports, self.settings.promotion, self.settings.acting)
        try:
            is_new = contest.look()
        except ScoringFailed:
            return self._move(Event.LOST, {"cause": "scoring_failed"})
        if cause := contest.lost_by():
            return self._move(Event.LOST, {"cause": cause, **contest.evidence()})
        if contest.is_passed:
            return self._go_further(contest)
        if is_new:
            self._save()
        return False

    def _go_further(self, contest: Contest) -> bool:
        """The next share, or everybody."""
        percents, evidence = self.settings.acting.canary_percents, contest.evidence()
        stage = 0 if contest.in_shadow else self.course.stage + 1
        if stage < len(percents):
            event = Event.SHADOW_PASSED if contest.in_shadow else Event.STEP_PASSED
            return self._move(event, evidence, percents[stage])
        return self._move(Event.WON, {**evidence, **contest.new_reference(), **self._report_evidence()})

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
