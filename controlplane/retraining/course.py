"""Where one model stands on its way from verdict to promotion: a small document that survives a kill."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from controlplane.drift.states import Event, Serving, State, after, line_of, serving_after

Evidence = dict[str, int | str]
FIRST_WAIT_MS, LONGEST_WAIT_MS = 60_000, 3_600_000


@dataclass(slots=True, kw_only=True)
class Course:
    """All of it is plain values. A *move* that was decided is written here before anybody is asked for it.

    ``id`` and ``step`` make the idempotency key of a move: it stays the same until the move is acknowledged, and is
    never used for another. ``change_row`` is the number of the last row before the change; ``trained_upto`` that of the
    last row the challenger was trained on; ``gated_upto`` that of the last row the gate has seen. ``stage`` counts the
    steps of a canary; ``asked`` holds what a human has been asked in this episode, ``heard`` the last answer.
    """

    model: str
    version: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    step: int = 0
    state: State = State.LEARNING
    serving: Serving = Serving.PRIMARY
    pending: dict[str, Any] | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    episode: int = 0
    attempt: int = 0
    trainings: int = 0
    change_row: int = 0
    new_version: int | None = None
    trained_upto: int = 0
    gated_upto: int = 0
    gate: dict[str, Any] | None = None
    stage: int = 0
    live: int = 0  # rows of this stage that the challenger answered itself, in its shadow those that were copied
    trial: dict[str, Any] | None = None  # what its server made of copies; None: nothing is copied
    fallback_gate: dict[str, Any] | None = None
    fallback_upto: int = 0
    jobs_ms: list[int] = field(default_factory=list)  # when the trainings of the last day began
    put_offs: int = 0  # askings in a row for a training that nobody took
    not_before_ms: int = 0  # when to ask again
    asked: list[str] = field(default_factory=list)
    heard: str = ""
    answer: str = ""
    report: Evidence | None = None
    watch: dict[str, Any] | None = None
    blocks: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return f"{self.id}/{self.step}"

    @property
    def job_key(self) -> str:
        """Names one training: the same after a restart, another for the next attempt."""
        return f"{self.id}/{self.episode}/{self.trainings}"

    def decide(self, event: Event, evidence: Mapping[str, int | str], percent: int | None = None) -> None:
        """Fix the next move, word for word, until it is acknowledged. ``percent`` is a canary's share.

        Raises:
            IllegalTransition: the event cannot happen in this state.
        """
        self.pending = {
            "key": self.key,
            "version": self.version,
            "from": str(self.state),
            "to": str(after(self.state, event)),
            "reason": str(event),
            "evidence": dict(evidence),
        }
        if self.new_version is not None:
            self.pending["new_version"] = self.new_version
        if percent is not None:
            self.pending["percent"] = percent

    def acknowledge(self) -> Event:
        """The pending move has happened."""
        if self.pending is None:
            raise ValueError("nothing is pending")
        event = Event(self.pending["reason"])
        line = line_of(State(self.pending["from"]), event)
        self.state, self.serving = line.target, serving_after(self.serving, line)
        self.pending = None
        self.step += 1
        return event

    def put_off(self, now_ms: int) -> None:
        """Nobody trained. It costs neither an attempt nor one of the day's jobs, and the next asking waits longer."""
        self.new_version = None
        del self.jobs_ms[-1:]
        self.put_offs += 1
        self.not_before_ms = now_ms + min(FIRST_WAIT_MS << min(self.put_offs - 1, 10), LONGEST_WAIT_MS)

    def waits_for_trainer(self, now_ms: int) -> bool:
        """A clock that was set back does not prolong it."""
        return 0 < self.not_before_ms - now_ms <= LONGEST_WAIT_MS

    def found_trainer(self) -> None:
        self.put_offs = self.not_before_ms = 0

    def begin_anew(self) -> None:
        """A new episode: what belonged to the last one is forgotten."""
        self.episode, self.attempt, self.stage = self.episode + 1, 0, 0
        self.gate = self.fallback_gate = self.report = None
        self.asked.clear()
        self.found_trainer()

    def as_document(self) -> dict[str, Any]:
        return asdict(self)


def course_from(document: Mapping[str, Any]) -> Course:
    """Raises ``TypeError`` for a document of a later release."""
    said = {"serving": Serving.PRIMARY, **document}
    return Course(**{**said, "state": State(said["state"]), "serving": Serving(said["serving"])})
