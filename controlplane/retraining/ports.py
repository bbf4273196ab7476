"""What a model's loop reaches the world through, and how the world says no."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.store import Answers, MonitorStore
from controlplane.retraining.comparing import Broken, none_broken
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.scoring import Score
from controlplane.retraining.trainer import Progress, Trainer

Report = Callable[[Course], Awaitable[Evidence]]
Describe = Callable[[int, NDArray[np.float64]], None]
"""(version, inputs it was trained on): leave beside the version what its rows look like. May be done twice."""


class GatewayUnavailable(Exception):
    """The gateway did not answer, or could not do it; the move stays pending and is asked again. ``reason`` is its word
    for it, if it said one.
    """

    def __init__(self, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class TransitionRefused(Exception):
    """The gateway will not have this move, or cannot be asked for it as things are; a human must look."""


@dataclass(frozen=True, slots=True)
class Review:
    """What a human said of a degraded version: one of ``loop.ANSWERS``; ``id`` names the record of it."""

    id: str
    answer: str


class Gateway(Protocol):
    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        """Have ``move`` recorded and done. MUST be idempotent by ``move["key"]``.

        Raises:
            GatewayUnavailable: ask again.
            TransitionRefused: do not.
        """
        ...

    async def review(self, model: str) -> Review | None:
        """The newest word of a human about ``model`` since it is degraded. Raises ``GatewayUnavailable``."""
        ...


def leave_undescribed(version: int, inputs: NDArray[np.float64]) -> None:
    """Nobody wants to know what its rows look like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPorts:
    """What the loop reaches the world through."""

    store: MonitorStore
    gateway: Gateway
    trainer: Trainer
    score: Score
    report: Report | None
    progress: Progress
    broken: Broken = none_broken
    describe: Describe = leave_undescribed
    wall_clock: Callable[[], float] = time.time

    def rows(self, model: str, version: int, after: int, upto: int | None = None) -> Answers:
        """Labelled rows in (after, upto] such as ``version`` was made for."""
        answers = self.store.answers_between(model, after, upto)
        return answers.where(~self.broken(version, answers.inputs)) if len(answers) else answers
