"""Where one model stands on its way from verdict to promotion: a small document that survives a kill."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from controlplane.drift.states import Event, State, after

Evidence = dict[str, int | str]


@dataclass(slots=True, kw_only=True)
class Course:
    """All of it is plain values. A *move* that was decided is written here before anybody is asked for it.

    ``id`` and ``step`` make the idempotency key of a move: it stays the same until the move is acknowledged, and is
    never used for another. ``change_row`` is the number of the last row before the change; ``trained_upto`` that of the
    last row the challenger was trained on; ``gated_upto`` that of the last row the gate has seen.
    """

    model: str
    version: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    step: int = 0
    state: State = State.LEARNING
    pending: dict[str, Any] | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    episode: int = 0
    attempt: int = 0
    change_row: int = 0
    new_version: int | None = None
    trained_upto: int = 0
    gated_upto: int = 0
    gate: dict[str, Any] | None = None
    report: Evidence | None = None
    watch: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return f"{self.id}/{self.step}"

    @property
    def job_key(self) -> str:
        """Names one training: the same after a restart, another for the next attempt."""
        return f"{self.id}/{self.episode}/{self.attempt}"

    def decide(self, event: Event, evidence: Mapping[str, int | str]) -> None:
        """Fix the next move, word for word, until it is acknowledged.

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

    def acknowledge(self) -> tuple[State, State]:
        """The pending move has happened: (from, to)."""
        if self.pending is None:
            raise ValueError("nothing is pending")
        source, self.state = State(self.pending["from"]), State(self.pending["to"])
        self.pending = None
        self.step += 1
        return source, self.state

    def as_document(self) -> dict[str, Any]:
        return asdict(self)


def course_from(document: Mapping[str, Any]) -> Course:
    return Course(**{**document, "state": State(document["state"])})
