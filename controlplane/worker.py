"""The worker process: trains what monitors queued in PostgreSQL. As many may run as one likes, on any machine that has
the models' file system. Reads the monitor's settings, and of those only where models lie and how they are trained.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from controlplane.monitor import MonitorSettings
from controlplane.monitor.process import load
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import TrainerUnavailable
from controlplane.settings_file import MONITOR_CONFIG
from controlplane.telemetry.logs import configure_logging


def queued(settings: MonitorSettings) -> dict[str, TrainingSettings]:
    """Models that are trained through the queue. Raises ``click.ClickException``: none, or of several queues."""
    found = {model.name: model.training for model in settings.models if model.training.runner == "queue"}
    if not found:
        raise click.ClickException("no model has training.runner: queue")
    if len({training.queue for training in found.values()}) > 1:
        raise click.ClickException("models have different training.queue: give each queue's models a file of their own")
    return found


@click.command("worker", short_help="Train what monitors queued in PostgreSQL.")
@MONITOR_CONFIG
@click.option("--until-empty", is_flag=True, help="End when no job waits, instead of waiting for the next.")
def worker_command(config: Path, *, until_empty: bool) -> None:
    """Train the models of CONFIG that have `training.runner: queue`, one job at a time.

    Needs the extra `queue` and the models' file system. SIGTERM lets the job at work end. May be killed at any time:
    its job goes to another worker, or fails after `training.queue.tries`.
    """
    settings = load(config)
    models = queued(settings)
    configure_logging(settings.telemetry.log_level)
    try:
        from controlplane.retraining.runners.queue_worker import QueueWorker  # noqa: PLC0415  needs the extra
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the extra 'queue' is not installed: no package {error.name}") from error
    queue = next(iter(models.values())).queue
    try:
        asyncio.run(QueueWorker(queue, models, settings.models_root).work(until_empty=until_empty))
    except (TrainerUnavailable, OSError) as error:
        raise click.ClickException(str(error)) from error
