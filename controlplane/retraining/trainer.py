"""What retraining asks of whoever trains: a subprocess here, a pipeline elsewhere.

TrainingError
├── TrainingFailed     the trainer ended with an error, or left no model
├── TrainingTimeout    it took longer than it may
└── TrainerBusy        another training of the same model is running
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[Mapping[str, Any]], None]


class TrainingError(Exception):
    """Root; ``reason`` is a stable word for the ledger."""

    reason = "training_failed"


class TrainingFailed(TrainingError):
    pass


class TrainingTimeout(TrainingError):
    reason = "training_timeout"


class TrainerBusy(TrainingError):
    reason = "trainer_busy"


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
    """A trained version that no server looks at yet. ``manifest_digest`` is a hex SHA-256."""

    version: int
    directory: Path
    manifest_digest: str


class Trainer(Protocol):
    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        """Train and leave a complete candidate.

        MUST be repeatable: a caller that was killed asks again with the same job. MUST NOT show the candidate to a
        model server. MUST raise only ``TrainingError`` and its family; when cancelled, MUST leave no process behind.
        """
        ...
