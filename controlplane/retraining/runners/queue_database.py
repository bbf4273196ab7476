"""The queue's database: procrastinate's tables in PostgreSQL, and the rules that several processes keep there.

Single flight. procrastinate's ``queueing_lock`` keeps a second job of a model from waiting while one waits, its
``lock`` keeps a second one from running while one runs; between the two, a second may still be queued behind a running
one. So whoever asks for a job first takes an advisory lock of the model, looks, and only then asks.

Nothing is lost. A worker gives signs of life. Whoever notices that they ceased (another worker, or the monitor that
waits) gives the job back to the queue, under the same lock and after looking again, or fails it when it was begun often
enough.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status

from controlplane.retraining.runners.queue_notices import AttentiveJobs
from controlplane.retraining.settings import QueueSettings
from controlplane.retraining.trainer import TrainerBusy, TrainerUnavailable

TASK = "controlplane.retrain"
MISSED_BEATS = 6  # a busy machine is late by one or two
CONNECT_S = 5.0
UNREACHABLE = (ConnectorException, psycopg.Error, OSError, TimeoutError)
OVER = {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.ABORTING, Status.ABORTED}
LIVE = {status.value for status in Status if status not in OVER}  # it waits, or is worked on
SCHEMA_LOCK = "controlplane schema"


@dataclass(frozen=True, slots=True)
class Session:
    """procrastinate over one connection. Every statement is committed by itself, but for those of ``alone``."""

    app: procrastinate.App
    connection: psycopg.AsyncConnection

    @asynccontextmanager
    async def alone(self, model: str) -> AsyncGenerator[None]:
        """Nobody else is between the first and the last statement about the model; all of them happen, or none.

        A pipeline: a statement whose answer nobody reads travels with the next one.
        """
        async with self.connection.pipeline(), self.connection.transaction():
            await _take_lock(self.connection, model)
            yield

    async def jobs_of(self, settings: QueueSettings, model: str) -> list[Job]:
        """Every job of the model that still has its row, oldest first. Raises ``SchemaMissing``."""
        try:
            found = await self.app.job_manager.list_jobs_async(queue=settings.name, task=TASK, lock=lock_of(model))
        except ConnectorException as error:
            if isinstance(error.__cause__, psycopg.errors.UndefinedTable):
                raise SchemaMissing(str(error.__cause__)) from error
            raise
        return sorted(found, key=lambda job: job.id or 0)


class SchemaMissing(Exception):
    """Nobody made the tables yet."""


@dataclass(frozen=True, slots=True)
class _OnlyConnection:
    """A pool for procrastinate of a connection that is open already. A real one opens a second, and starts tasks."""

    made: psycopg.AsyncConnection

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection]:
        yield self.made


@asynccontextmanager
async def session(settings: QueueSettings) -> AsyncGenerator[Session]:
    """For a few statements, one after the other. Raises ``TrainerUnavailable``, ``TrainerBusy``."""
    with _translated():
        async with await connect(settings, autocommit=True) as connection:
            app = procrastinate.App(connector=procrastinate.PsycopgConnector())
            async with app.open_async(_OnlyConnection(connection)):
                yield Session(app, connection)


@asynccontextmanager
async def opened(settings: QueueSettings) -> AsyncGenerator[procrastinate.App]:
    """For as long as a worker lives. Raises ``TrainerUnavailable``."""
    with _translated():
        async with await connect(settings):  # fails at once, where a pool would try on in the background
            pass
        async with _application(settings).open_async() as app:
            yield app


def _application(settings: QueueSettings) -> procrastinate.App:
    """Not open yet. Raises ``OSError``: the password's file cannot be read."""
    connector = procrastinate.PsycopgConnector(
        conninfo=settings.dsn,
        kwargs=_secrets(settings) | {"connect_timeout": round(CONNECT_S)},
        configure=_commit_each_statement,
        min_size=2,
        max_size=4,
        timeout=CONNECT_S,
    )
    app = procrastinate.App(connector=connector)
    app.job_manager = AttentiveJobs(connector)
    return app


async def _commit_each_statement(connection: psycopg.AsyncConnection) -> None:
    """procrastinate asks by single statements: a transaction around each would be two more journeys."""
    await connection.set_autocommit(True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AlreadyEnqueued as error:
        raise TrainerBusy(str(error)) from error
    except UNREACHABLE as error:
        raise TrainerUnavailable(f"queue: {error}") from error


async def connect(settings: QueueSettings, *, autocommit: bool = False) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(
        settings.dsn, autocommit=autocommit, connect_timeout=round(CONNECT_S), **_secrets(settings)
    )


def _secrets(settings: QueueSettings) -> dict[str, Any]:
    return {} if settings.password_file is None else {"password": settings.password_file.read_text("utf-8").strip()}


async def make_schema(app: procrastinate.App, settings: QueueSettings) -> None:
    """Doing it twice, or at the same time, is doing it once."""
    async with alone(settings, SCHEMA_LOCK) as connection:
        cursor = await connection.execute("SELECT to_regclass('procrastinate_jobs')")
        (found,) = await cursor.fetchone() or (None,)
        if found is None:
            await app.schema_manager.apply_schema_async()


@asynccontextmanager
async def alone(settings: QueueSettings, what: str) -> AsyncGenerator[psycopg.AsyncConnection]:
    """One process at a time, over all machines; a process that dies lets go."""
    async with await connect(settings) as connection, connection.transaction():
        await _take_lock(connection, what)
        yield connection


async def _take_lock(connection: psycopg.AsyncConnection, what: str) -> None:
    """Wait for it; it is let go at the end of the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"retrain {what}",))


def lock_of(model: str) -> str:
    return f"retrain {model}"


async def rescue(app: procrastinate.App, settings: QueueSettings) -> None:
    """Jobs whose worker died go back to the queue; those that were begun often enough fail."""
    for seen in await _stalled(app, settings):
        async with alone(settings, str(seen.task_kwargs["model"])):
            for job in await _stalled(app, settings):
                if job.id == seen.id and job.id is not None:
                    await _give_back(app, settings, job)


async def _stalled(app: procrastinate.App, settings: QueueSettings) -> list[Job]:
    return list(
        await app.job_manager.get_stalled_jobs(
            queue=settings.name, task_name=TASK, seconds_since_heartbeat=MISSED_BEATS * settings.heartbeat_s
        )
    )


async def _give_back(app: procrastinate.App, settings: QueueSettings, job: Job) -> None:
    if job.attempts + 1 < settings.tries:
        await app.job_manager.retry_job(job)
    else:
        await app.job_manager.finish_job_by_id_async(job.id or 0, Status.FAILED, delete_job=False)
