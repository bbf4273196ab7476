"""Notices of new jobs that a worker does not lose.

PostgreSQL tells a worker of a new job at once. procrastinate 3.10 forgets what it was told during a look that finds
nothing, and looks again only after its poll, seconds later.
"""

from __future__ import annotations

from collections.abc import Iterable

from procrastinate.jobs import Job, Notification
from procrastinate.manager import JobManager, NotificationCallback


class AttentiveJobs(JobManager):
    """procrastinate's own, and looks again when it was told of something while it looked."""

    heard = 0

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        async def hear(*, channel: str, notification: Notification) -> None:
            self.heard += 1
            await on_notification(channel=channel, notification=notification)

        await super().listen_for_jobs(on_notification=hear, queues=queues)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        while True:
            heard = self.heard
            job = await super().fetch_job(queues, worker_id)
            if job is not None or heard == self.heard:
                return job
