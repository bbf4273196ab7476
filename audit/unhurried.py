"""A wait that no cancellation cuts short: whoever writes must learn what came of it."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Unhurried(asyncio.Future[T]):
    """What a caller of the ledger waits on. A cancellation that comes meanwhile is raised at the caller's next wait.

    So nobody leaves without knowing what is on the disk, and nothing has to be shielded by tasks or scopes. The wait
    MUST end by itself: the ledger answers everybody within its stall limit.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  the signature of every future
        """Never; asyncio then raises the cancellation when the wait is over."""
        return False

    async def outcome(self) -> T:
        """The result, or the exception that was set."""
        try:
            return await self
        except asyncio.CancelledError as cancellation:
            _raise_later(cancellation)
            return self.result()


def _raise_later(cancellation: asyncio.CancelledError) -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()  # it counts as one, before and after
        task.cancel(*cancellation.args)
