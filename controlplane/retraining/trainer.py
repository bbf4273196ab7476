"""What retraining asks of whoever trains: a subprocess here, a queue or a pipeline elsewhere.

TrainingError                training_failed
├── TrainingFailed           training_failed, training_killed, training_out_of_memory, training_refused
├── TrainingTimeout          training_timeout      it took longer than it may, and was ended
├── TrainerBusy              trainer_busy          another training of the same model is running
├── TrainerUnavailable       trainer_unavailable   whoever should train could not be reached
├── JobLost                  job_lost              it was accepted, and nobody knows of it any more
├── OutputInvalid            output_invalid        what it left is no version that may be shown to a server
└── DiskFull                 disk_full             no room for what it reads or leaves

Each ``reason`` is a stable word: it goes into the ledger and into metric labels.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[Mapping[str, Any]], None]
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class TrainingError(Exception):
    """Root; ``reason`` is a stable word for the ledger. ``was_tried``: somebody took the job and failed at it."""

    reason = "training_failed"
    was_tried = True


class TrainingFailed(TrainingError):
    """``reason`` tells a crash (``training_killed``) and a lack of memory (``training_out_of_memory``) apart from a
    program that ended with an error, and from a runner that would not have the job (``training_refused``).
    """

    def __init__(self, detail: str, reason: str = "training_failed") -> None:
        super().__init__(detail)
        self.reason = reason


class TrainingTimeout(TrainingError):
    reason = "training_timeout"


class TrainerBusy(TrainingError):
    reason = "trainer_busy"
    was_tried = False


class TrainerUnavailable(TrainingError):
    reason = "trainer_unavailable"
    was_tried = False


class JobLost(TrainingError):
    reason = "job_lost"


class OutputInvalid(TrainingError):
    reason = "output_invalid"


class DiskFull(TrainingError):
    reason = "disk_full"


def training_error_for(error: OSError) -> TrainingError:
    return DiskFull(str(error)) if error.errno in NO_SPACE else TrainingFailed(str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One attempt. ``key`` is unique to it; training the same key again gives the same candidate.

    ``rows`` is an ``.npz`` with ``inputs`` (n, features) float64 and ``labels`` (n,) int64.
    """

    key: str
    model: str
    parent_version: int
    new_version: int
    rows: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained version that no server looks at yet. ``manifest_digest`` is the hex SHA-256 of its provenance.

    ``facts`` are for the ledger: data and code digests, parent, job, runner and metrics, in ints and strings.
    """

    version: int
    directory: Path
    manifest_digest: str
    facts: Mapping[str, int | str] = field(default_factory=dict)


class Trainer(Protocol):
    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        """Train and leave a complete candidate.

        MUST be repeatable: a caller that was killed asks again with the same job. MUST NOT show the candidate to a
        model server. MUST raise only ``TrainingError`` and its family. When cancelled, MUST leave no process of this
        machine behind; a job that another machine has goes on, and is found again by the same key.
        """
        ...
