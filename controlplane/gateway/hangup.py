"""Noticing that the agent has gone, and stopping the work that nobody waits for.

A hang-up cancels the task that serves the call. What must be written is not cut short by that: the ledger's waits end
first (``audit.unhurried``), and the cancellation is raised after them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import Receive


class HangUp:
    """``async with HangUp() as gone:`` runs the block until the client disconnects.

    Call ``watch`` only when the request body has been read: until then ``receive`` belongs to whoever reads it.
    """

    __slots__ = ("_noticed", "_task", "_watcher")

    def __init__(self) -> None:
        self._noticed = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.rest()
        if not self._noticed or self._task is None:
            return False
        with suppress(asyncio.CancelledError):  # one that came during the block's last wait is still on its way
            await asyncio.sleep(0)
        nobody_else_cancels = self._task.uncancel() == 0
        return nobody_else_cancels and isinstance(error, asyncio.CancelledError)

    def watch(self, receive: Receive) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._until_disconnect(receive))

    def rest(self) -> None:
        """Stop watching: the last byte is about to leave, and a server says of a reply that is over: client gone."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _until_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._noticed = True
            self._task.cancel()
