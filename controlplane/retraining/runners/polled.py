"""A runner elsewhere: asked for a job once, then asked how far it is, until it ended or its time is over.

Being asked for a job twice is the rule and not the exception: a monitor that was restarted asks again, and so does one
whose request was accepted while the answer got lost. So a job has a name, and ``submit`` finds a job of that name.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from controlplane.retraining.runners.description import STATUS, Description, read_metrics, read_plain
from controlplane.retraining.runners.leaving import leave_if_told_to
from controlplane.retraining.trainer import (
    JobLost,
    Progress,
    TrainerUnavailable,
    TrainingError,
    TrainingFailed,
    TrainingTimeout,
)

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
LONGEST_WAIT_POLLS = 16  # an unreachable runner is asked less and less often, down to once in so many intervals


MISSHAPEN = (AttributeError, KeyError, TypeError, ValueError)
"""What JSON of another shape than a runner's makes of reading it."""

REASONS = {  # the words that a job elsewhere may give for its failure
    "training_failed",
    "training_killed",
    "training_out_of_memory",
    "training_refused",
    "training_timeout",
    "disk_full",
}


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """``progress`` is what the job said last, ``metrics`` what it found, ``reason`` the stable word of its failure."""

    state: JobState
    progress: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""
    reason: str = "training_failed"


class Jobs(Protocol):
    """MUST raise ``TrainerUnavailable`` when another try may help, and another ``TrainingError`` when not."""

    async def submit(self, description: Description) -> str:
        """Ask for the job, or find the one of that name; returns the id by which it is known there."""
        ...

    async def status(self, job: str) -> JobStatus: ...

    async def end(self, job: str) -> None:
        """Have it stopped. MUST NOT fail for a job that has ended."""
        ...


@dataclass(frozen=True, slots=True)
class PolledRunner:
    """A ``Runner`` around ``Jobs``. ``sleep`` and ``now_s`` (monotonic) are given in tests."""

    jobs: Jobs
    timeout_s: float
    poll_s: float
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now_s: Callable[[], float] = time.monotonic

    async def run(self, description: Description, progress: Progress) -> Mapping[str, Any]:
        clock = _Deadline(self.now_s() + self.timeout_s, self.now_s, self.sleep, self.poll_s)
        job = await clock.until_reached(lambda: self.jobs.submit(description))
        log.info("training job %s is %s there", description.name, job)
        try:
            return await self._follow(job, description, progress, clock)
        except (TrainingTimeout, TrainerUnavailable):
            await self._end(job)
            raise

    async def _follow(self, job: str, description: Description, progress: Progress, clock: _Deadline) -> dict[str, Any]:
        told: Mapping[str, Any] = {}
        while True:
            status = await clock.until_reached(lambda: self.jobs.status(job))
            said = status.progress or read_plain(description.place / STATUS)
            if said and said != told:
                progress(said)
                told = said
            if status.state is JobState.SUCCEEDED:
                return dict(status.metrics) or read_metrics(description.place)
            _raise_if_ended(status, description)
            try:
                await clock.pause()
            except TrainingTimeout as error:
                if status.state is JobState.WAITING:
                    raise TrainerUnavailable("nobody took the job in time") from error
                raise

    async def _end(self, job: str) -> None:
        try:
            await _understood(lambda: self.jobs.end(job))
        except TrainingError as error:
            log.warning("training job %s could not be ended: %s", job, error)


async def _understood(ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """Raises ``TrainerUnavailable`` for an answer of a shape that nobody expects, too: the next may be better."""
    try:
        return await ask()
    except MISSHAPEN as error:
        raise TrainerUnavailable(f"its answer is not understood: {error!r}") from error


def _raise_if_ended(status: JobStatus, description: Description) -> None:
    if status.state is JobState.FAILED:
        raise TrainingFailed(status.detail or f"{description.name} failed", status.reason)
    if status.state is JobState.LOST:
        raise JobLost(status.detail or f"nobody knows of {description.name} any more")


@dataclass(slots=True)
class _Deadline:
    """The time that a job has, from the first asking on."""

    at_s: float
    now_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    poll_s: float

    async def pause(self, polls: int = 1) -> None:
        """Raises ``TrainingTimeout`` when the time is over."""
        leave_if_told_to()
        left = self.at_s - self.now_s()
        if left <= 0:
            raise TrainingTimeout("not done in time")
        await self.sleep(min(self.poll_s * polls, left))

    async def until_reached(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask again while nobody answers. Raises ``TrainerUnavailable`` when nobody did until the end."""
        polls = 1
        while True:
            try:
                return await _understood(ask)
            except TrainerUnavailable as error:
                log.warning("the trainer is unavailable: %s", error)
                try:
                    await self.pause(polls)
                except TrainingTimeout:
                    raise error from None
                polls = min(2 * polls, LONGEST_WAIT_POLLS)
