"""A worker on procrastinate's own database in memory, told of a job at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("procrastinate", reason="the package procrastinate is not installed (extra: queue)")

import procrastinate
from procrastinate.testing import InMemoryConnector

from controlplane.retraining.runners.queue_notices import AttentiveJobs

PATIENCE_S = 60.0


class WorstMoment(InMemoryConnector):
    """A job comes, and is told of, after a look that found nothing and before the worker hears so."""

    app: procrastinate.App
    came = False

    async def fetch_job_one(self, queues: Iterable[str] | None, worker_id: int) -> dict[str, Any]:
        found = await super().fetch_job_one(queues, worker_id)
        if found["id"] is None and not self.came:
            self.came = True
            await self.app.configure_task("train").defer_async(number=2)
        return found


async def test_a_notice_that_comes_while_the_worker_looks_is_not_lost() -> None:
    connector = WorstMoment()
    app = connector.app = procrastinate.App(connector=connector)
    app.job_manager = AttentiveJobs(connector)
    trained, second = [], asyncio.Event()

    @app.task(name="train")
    async def train(number: int) -> None:
        trained.append(number)
        if number == 2:
            second.set()

    async with app.open_async():
        await app.configure_task("train").defer_async(number=1)
        hours = 3_600.0
        worker = asyncio.create_task(app.run_worker_async(fetch_job_polling_interval=hours))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await second.wait()
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
    assert trained == [1, 2]
