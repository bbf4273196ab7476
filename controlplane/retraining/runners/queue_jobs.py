"""Jobs in PostgreSQL as the monitor sees them. Workers are ``queue_worker.py``; the two meet in the database and in the
job's directory, which is on the models' file system. What lies there is believed before what the rows say: a worker
that lost its database after the work was done has done it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from procrastinate.jobs import Job, Status

from controlplane.retraining.runners import queue_database
from controlplane.retraining.runners.description import Description, read_plain
from controlplane.retraining.runners.polled import JobState, JobStatus
from controlplane.retraining.runners.queue_database import LIVE, TASK, SchemaMissing, Session, lock_of
from controlplane.retraining.settings import QueueSettings, TrainingSettings
from controlplane.retraining.trainer import TrainerBusy

ENDED = "ended.json"  # the word and the detail of a failure, left by the worker


def jobs(settings: TrainingSettings, root: Path) -> QueueJobs:
    return QueueJobs(settings.queue, root)


@dataclass(frozen=True, slots=True)
class QueueJobs:
    """``Jobs`` of one queue. Holds no connection between two questions."""

    settings: QueueSettings
    root: Path

    async def submit(self, description: Description) -> str:
        """Raises ``TrainerBusy``: another job of the model waits or runs."""
        async with queue_database.session(self.settings) as session:
            try:
                return await self._ask_for(session, description)
            except SchemaMissing:
                await queue_database.make_schema(session.app, self.settings)
            except TrainerBusy:  # unless its worker died
                await queue_database.rescue(session.app, self.settings)
            return await self._ask_for(session, description)

    async def _ask_for(self, session: Session, description: Description) -> str:
        """Two journeys to the database: what there is, and what is asked for."""
        async with session.alone(description.model):
            known = await session.jobs_of(self.settings, description.model)
            for job in known:
                if job.task_kwargs["job"] == description.key:
                    return str(job.id)
            if any(job.status in LIVE for job in known):
                raise TrainerBusy(f"another training of {description.model} waits or runs")
            lock = lock_of(description.model)
            deferred = session.app.configure_task(TASK, queue=self.settings.name, lock=lock, queueing_lock=lock)
            return str(await deferred.defer_async(**_arguments(description)))

    async def status(self, job: str) -> JobStatus:
        async with queue_database.session(self.settings) as session:
            await queue_database.rescue(session.app, self.settings)
            found = list(await session.app.job_manager.list_jobs_async(id=int(job)))
        if not found:
            return JobStatus(JobState.LOST, detail=f"job {job} has no row any more")
        return status_of(found[0], place_of(self.root, found[0].task_kwargs))

    async def end(self, job: str) -> None:
        async with queue_database.session(self.settings) as session:
            await session.app.job_manager.cancel_job_by_id_async(int(job), abort=True)


def _arguments(description: Description) -> dict[str, Any]:
    """Names only. What is run stands in the worker's own settings: who can write rows cannot choose a program."""
    return {
        "job": description.key,
        "model": description.model,
        "version": description.new_version,
        "place": description.place.name,
    }


def place_of(root: Path, arguments: dict[str, Any]) -> Path:
    """The directory of a job under ``root``. Raises ``ValueError`` for names that lead out of it."""
    model, place = str(arguments["model"]), str(arguments["place"])
    for part in (model, place):
        if Path(part).name != part or part in ("", ".", ".."):
            raise ValueError(f"{part!r} is not a name")
    return root / model / ".candidates" / place


def status_of(job: Job, place: Path) -> JobStatus:
    """``place`` is the job's directory."""
    if (place / str(job.task_kwargs["version"])).exists():
        return JobStatus(JobState.SUCCEEDED)
    ended = read_plain(place / ENDED)
    if ended:
        return JobStatus(JobState.FAILED, detail=str(ended.get("detail")), reason=str(ended.get("reason")))
    match job.status:
        case Status.DOING.value:
            return JobStatus(JobState.RUNNING)
        case Status.SUCCEEDED.value:
            return JobStatus(JobState.SUCCEEDED)  # what it left is looked at next, and is not there
        case status if status in LIVE:
            return JobStatus(JobState.WAITING)
        case _:
            return JobStatus(JobState.LOST, detail=f"job {job.id} {job.status} without a word: its workers died")
