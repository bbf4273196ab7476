"""A worker of the queue: takes one job at a time and runs it as a subprocess within the limits of its own settings.

May be killed at any time. Its trainer dies with it, and the job goes to the next worker that has time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import procrastinate

from controlplane.retraining.runners import queue_database
from controlplane.retraining.runners.description import DescriptionInvalid, read_description, write_json
from controlplane.retraining.runners.leaving import leave_if_told_to
from controlplane.retraining.runners.queue_database import MISSED_BEATS, TASK, UNREACHABLE
from controlplane.retraining.runners.queue_jobs import ENDED, place_of
from controlplane.retraining.runners.subprocess_runner import SubprocessRunner
from controlplane.retraining.settings import QueueSettings, TrainingSettings
from controlplane.retraining.trainer import TrainingError, TrainingFailed, training_error_for

log = logging.getLogger(__name__)

CLEANING_S = 3_600.0


@dataclass(frozen=True, slots=True)
class QueueWorker:
    """``models`` are the settings of the models that it trains, by name; ``root`` is where their versions lie."""

    queue: QueueSettings
    models: Mapping[str, TrainingSettings]
    root: Path

    async def work(self, *, until_empty: bool = False) -> None:
        """Until SIGTERM or SIGINT, which let the job at work end. Raises ``TrainerUnavailable``."""
        async with queue_database.opened(self.queue) as app:
            await queue_database.make_schema(app, self.queue)
            app.task(name=TASK, queue=self.queue.name)(self._retrain)
            await queue_database.rescue(app, self.queue)
            await clean(app, self.queue)
            keeping = asyncio.create_task(self._keep(app))
            try:
                await app.run_worker_async(
                    queues=[self.queue.name],
                    wait=not until_empty,
                    fetch_job_polling_interval=self.queue.heartbeat_s,
                    abort_job_polling_interval=self.queue.heartbeat_s,
                    update_heartbeat_interval=self.queue.heartbeat_s,
                    stalled_worker_timeout=MISSED_BEATS * self.queue.heartbeat_s,
                    install_signal_handlers=not until_empty,
                )
            finally:
                keeping.cancel()
                with suppress(asyncio.CancelledError):
                    await keeping

    async def _keep(self, app: procrastinate.App) -> None:
        """Jobs of dead workers are given back, rows of jobs that ended long ago are deleted."""
        clock = asyncio.get_running_loop().time
        cleaned_s = clock()
        while True:
            leave_if_told_to()
            await asyncio.sleep(self.queue.heartbeat_s)
            try:
                await queue_database.rescue(app, self.queue)
                if clock() - cleaned_s >= CLEANING_S:
                    cleaned_s = clock()
                    await clean(app, self.queue)
            except UNREACHABLE as error:
                log.warning("the queue cannot be looked after: %s", error)

    async def _retrain(self, **arguments: Any) -> None:
        """The task. Its failure is left in the job's directory before its row says so."""
        place = place_of(self.root, arguments)
        try:
            await self._run(place, arguments)
        except (TrainingError, DescriptionInvalid, OSError) as error:
            known = _known(error)
            log.error("training %s failed (%s): %s", arguments["job"], known.reason, error)  # noqa: TRY400 - no bug
            with suppress(OSError):
                write_json(place / ENDED, {"reason": known.reason, "detail": str(error)[-2_000:]})
            raise

    async def _run(self, place: Path, arguments: Mapping[str, Any]) -> None:
        settings = self.models.get(arguments["model"])
        if settings is None:
            raise TrainingFailed(f"this worker does not train {arguments['model']}", "training_refused")
        description = await asyncio.to_thread(read_description, place)
        if description.key != arguments["job"]:
            raise DescriptionInvalid(f"{place} is of another job")

        def progress(said: Mapping[str, Any]) -> None:
            log.info("training %s: %s", description.model, json.dumps(dict(said)))

        await SubprocessRunner(settings).run(description, progress)


def _known(error: Exception) -> TrainingError:
    if isinstance(error, TrainingError):
        return error
    return training_error_for(error) if isinstance(error, OSError) else TrainingFailed(str(error))


async def clean(app: procrastinate.App, queue: QueueSettings) -> None:
    """Delete the rows of jobs that ended long ago, however they ended."""
    await app.job_manager.delete_old_jobs(
        queue.kept_hours, queue.name, include_failed=True, include_cancelled=True, include_aborted=True
    )
