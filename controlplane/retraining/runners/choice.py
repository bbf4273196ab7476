"""The trainer that the settings ask for. What a runner needs is imported only when it is chosen."""

from __future__ import annotations

import importlib
from pathlib import Path

from controlplane.retraining.runners.polled import Jobs, PolledRunner
from controlplane.retraining.runners.publishing_trainer import PublishingTrainer, Runner
from controlplane.retraining.runners.subprocess_runner import SubprocessRunner
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import Trainer

JOBS = {"queue": "queue_jobs", "kubeflow": "kubeflow", "airflow": "airflow", "webhook": "webhook"}


class RunnerNotInstalled(Exception):
    """The chosen runner needs an extra that is not installed."""


def trainer_for(settings: TrainingSettings, root: Path) -> Trainer:
    """A trainer whose candidates lie under ``root``. Raises ``RunnerNotInstalled``."""
    return PublishingTrainer(settings, root, runner_for(settings, root))


def runner_for(settings: TrainingSettings, root: Path) -> Runner:
    if settings.runner == "subprocess":
        return SubprocessRunner(settings)
    return PolledRunner(jobs_for(settings, root), settings.timeout_s, settings.poll_s)


def jobs_for(settings: TrainingSettings, root: Path) -> Jobs:
    try:
        module = importlib.import_module(f"controlplane.retraining.runners.{JOBS[settings.runner]}")
    except ModuleNotFoundError as error:
        raise RunnerNotInstalled(f"runner {settings.runner!r} needs the package {error.name}") from error
    jobs: Jobs = module.jobs(settings, root)
    return jobs
