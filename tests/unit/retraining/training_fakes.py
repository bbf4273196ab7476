"""Jobs, models and trainers for the tests of every runner."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.retraining.runners.choice import runner_for
from controlplane.retraining.runners.description import Description, write_json
from controlplane.retraining.runners.polled import JobState, JobStatus, PolledRunner
from controlplane.retraining.runners.publishing_trainer import PublishingTrainer
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import Progress, TrainerUnavailable, TrainingJob
from inference.savedmodel import export_mlp

GOOD = """
import json, pathlib, shutil, sys, numpy
rows, out = sys.argv[1:]
labels = numpy.load(rows)["labels"]
print("chatter"); print(json.dumps({"epoch": 1}))
shutil.copytree(pathlib.Path(__file__).with_name("made"), out)
print(json.dumps({"metrics": {"rows": len(labels), "odd": float("nan")}}))
"""


def write_model(directory: Path, features: int = 2, classes: int = 2) -> Path:
    """A real SavedModel, as a trainer would leave it."""
    layers = [(np.zeros((features, classes)), np.zeros(classes))]
    names = [str(number) for number in range(max(features, classes))]
    return export_mlp(directory, layers, feature_names=names[:features], class_names=names[:classes])


def job_in(folder: Path, key: str = "episode/1", model: str = "risk") -> TrainingJob:
    rows = folder / "given.npz"
    if not rows.exists():
        np.savez(rows, inputs=np.zeros((5, 2)), labels=np.ones(5, np.int64))
    return TrainingJob(key=key, model=model, parent_version=1, new_version=2, rows=rows)


def program(folder: Path, text: str = GOOD) -> Path:
    """A trainer as a file, with the model that it will leave beside it."""
    if not (folder / "made").exists():
        write_model(folder / "1").rename(folder / "made")
    code = folder / "train.py"
    code.write_text(text)
    return code


def leftovers(models: Path) -> list[str]:
    return [entry.name for entry in (models / "risk/.candidates").iterdir() if entry.name != ".lock"]


@dataclass
class FillingRunner:
    """Leaves a copy of ``made``, or does what it is told instead."""

    made: Path
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    spoil: Callable[[Path], object] = lambda _: None
    ran: list[Description] = field(default_factory=list)

    async def run(self, description: Description, progress: Progress) -> Mapping[str, Any]:
        self.ran.append(description)
        progress({"epoch": 1})
        if self.error is not None:
            raise self.error
        shutil.copytree(self.made, description.out)
        self.spoil(description.out)
        return self.metrics


@dataclass
class RememberedJobs:
    """A runner elsewhere that knows its jobs by name, and says of each what it is told to say, one after the other."""

    answers: list[JobStatus | BaseException]
    made: Path | None = None
    unreachable: int = 0  # askings for a job that nobody answers
    submitted: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def submit(self, description: Description) -> str:
        if self.unreachable:
            self.unreachable -= 1
            raise TrainerUnavailable("nobody is there")
        if description.name not in self.submitted:
            self.submitted.append(description.name)
            if self.made is not None:
                shutil.copytree(self.made, description.out)
                write_json(description.place / "metrics.json", {"rows": 5})
        return description.name

    async def status(self, job: str) -> JobStatus:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def end(self, job: str) -> None:
        self.ended.append(job)


RUNNING, DONE = JobStatus(JobState.RUNNING, {"epoch": 1}), JobStatus(JobState.SUCCEEDED)


@dataclass
class Clock:
    """Time that passes only while somebody sleeps."""

    at_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at_s += seconds
        await asyncio.sleep(0)

    def now_s(self) -> float:
        return self.at_s


def polling_trainer(root: Path, **said: Any) -> PublishingTrainer:
    """The one that the settings ask for, on a clock of its own: no busy machine makes its job late."""
    settings = TrainingSettings.model_validate({"poll_s": 1.0, "timeout_s": 20.0} | said)
    runner, clock = runner_for(settings, root), Clock()
    assert isinstance(runner, PolledRunner)
    return PublishingTrainer(settings, root, replace(runner, sleep=clock.sleep, now_s=clock.now_s))
