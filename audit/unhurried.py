"""A wait that no cancellation cuts short: whoever writes must learn what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

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


async def unhurried(work: Coroutine[Any, Any, T]) -> T:
    """``work`` to its end in a task of its own, for those who must know what came of it. It MUST end by itself.

    A cancellation of the caller is raised at the caller's next wait. A scope with a shield would not do: it holds off
    the scopes around it, and ``Task.cancel``, by which calls end here, passes through it.
    """
    told = Unhurried[T](loop=asyncio.get_running_loop())
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: _tell(told, done))
    return await told.outcome()


def _tell(told: Unhurried[T], done: asyncio.Future[T]) -> None:
    if done.cancelled():  # only by the end of the loop
        told.set_exception(asyncio.CancelledError())
    elif (error := done.exception()) is not None:
        told.set_exception(error)
    else:
        told.set_result(done.result())


def _raise_later(cancellation: asyncio.CancelledError) -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()  # it counts as one, before and after
        task.cancel(*cancellation.args)
