"""Noticing that the agent has gone, and stopping the work that nobody waits for.

Cancellation is an anyio scope and never ``Task.cancel``: what must be written (intent, outcome) is shielded, and only
scopes respect a shield.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self, TypeVar

import anyio
from starlette.types import Receive

T = TypeVar("T")


class HangUp:
    """``with HangUp() as gone:`` runs the block until the client disconnects.

    Call ``watch`` only when the request body has been read: until then ``receive`` belongs to whoever reads it.
    """

    __slots__ = ("_scope", "_watcher")

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.rest()
        return bool(self._scope.__exit__(kind, error, trace))

    def watch(self, receive: Receive) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._until_disconnect(receive))

    def rest(self) -> None:
        """Stop watching: the last byte is about to leave, and a server reports a reply that is over as a client gone.

        A scope cancelled while the outcome is being recorded would try again in every turn of the loop, for as long as
        the disk takes to answer.
        """
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _until_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scope.cancel()


async def until_cancelled(work: Coroutine[None, None, T]) -> T:
    """Run ``work`` so that a ``Task.cancel`` from outside (gRPC does that) reaches it as a scope's cancellation.

    Returns when the work has really ended, so its outcome is recorded before the caller goes on.
    """
    scope = anyio.CancelScope()
    task = asyncio.get_running_loop().create_task(_within(scope, work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        scope.cancel()
        await asyncio.wait([task])
        raise


async def _within(scope: anyio.CancelScope, work: Coroutine[None, None, T]) -> T:
    with scope:
        return await work
    raise asyncio.CancelledError
