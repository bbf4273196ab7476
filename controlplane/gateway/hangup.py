"""Noticing that the agent has gone, and stopping the work that nobody waits for.

Cancellation is an anyio scope and never ``Task.cancel``: what must be written (intent, outcome) is shielded, and only
scopes respect a shield.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from starlette.types import Receive

T = TypeVar("T")


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive) -> AsyncGenerator[anyio.CancelScope]:
    """Run the block until the client disconnects. Enter only when the request body has been read."""
    with anyio.CancelScope() as scope:
        watcher = asyncio.get_running_loop().create_task(_watch(receive, scope))
        try:
            yield scope
        finally:
            watcher.cancel()


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


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
