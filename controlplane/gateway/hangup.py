"""Noticing that the agent has gone, and stopping the work that nobody waits for.

A hang-up cancels the task that serves the call. What must be written is not cut short by that: the ledger's waits end
first (``audit.unhurried``), and the cancellation is raised after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import Receive


class HangUp:
    """``async with HangUp() as gone:`` runs the block until the client disconnects.

    Call ``watch`` only when the request body has been read: until then ``receive`` belongs to whoever reads it.

    What ``receive`` waits for calls us back when it is there. A task that waits would do the same in more words, for
    two turns of the loop and an exception in every call.
    """

    __slots__ = ("_listening", "_noticed", "_task")

    def __init__(self) -> None:
        self._noticed = False
        self._task: asyncio.Task[object] | None = None
        self._listening: Coroutine[asyncio.Future[object] | None, None, None] | None = None

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
        self._listening = _until_disconnect(receive)
        self._listen()

    def rest(self) -> None:
        """Stop watching: the last byte is about to leave, and a server says of a reply that is over: client gone."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _listen(self, _: object = None) -> None:
        """Let ``receive`` run until it waits. It gives what it waits for, as it would to a task: None is one turn."""
        if self._listening is None:
            return  # at rest since
        try:
            awaited = self._listening.send(None)
        except StopIteration:
            self._noticed, self._listening = True, None
            if self._task is not None:
                self._task.cancel()
            return
        if awaited is None:
            asyncio.get_running_loop().call_soon(self._listen)
        else:
            awaited.add_done_callback(self._listen)


async def _until_disconnect(receive: Receive) -> None:
    message = await receive()
    while message["type"] != "http.disconnect":
        await asyncio.sleep(0)  # whoever answers at once, again and again, must not keep the loop from turning
        message = await receive()
