"""A pool of fakes, watched, and callers that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from inference.backend import Backend, BackendRequest
from inference.errors import BackendError
from inference.routing import ReplicaPool, RoutingSettings, Transition
from tests.unit.inference.routing.fakes import FakeReplica, chat, now

DETECTION_LIMIT_S = 4.6
"""stall_s 2 + one look of 0.5 and its spread + probe_timeout_s 2: what the defaults promise for a frozen replica."""


@dataclass
class Answer:
    body: bytes = b""
    error: BackendError | None = None
    took_s: float = 0.0


async def ask(pool: Backend, request: BackendRequest | None = None) -> Answer:
    began = now()
    try:
        async with pool.send(request or chat()) as reply, aclosing(reply.chunks) as chunks:
            body = b"".join([chunk async for chunk in chunks])
    except BackendError as error:
        return Answer(error=error, took_s=now() - began)
    return Answer(body, took_s=now() - began)


@dataclass
class World:
    pool: ReplicaPool
    replicas: dict[str, FakeReplica]
    transitions: list[Transition]
    watching: asyncio.Task[None]

    def __getitem__(self, name: str) -> FakeReplica:
        return self.replicas[name]

    def state(self, name: str) -> str:
        return next(one.state.value for one in self.pool.snapshot() if one.name == name)

    async def traffic(self, span_s: float, every_s: float = 0.1, request: BackendRequest | None = None) -> list[Answer]:
        """Callers that come one after the other and do not wait for each other."""
        tasks = []
        until_s = now() + span_s
        while now() < until_s:
            tasks.append(asyncio.create_task(ask(self.pool, request)))
            await asyncio.sleep(every_s)
        return await asyncio.gather(*tasks)


@asynccontextmanager
async def world(
    *names: str, settings: RoutingSettings | None = None, watched: bool = True, sees: bool = True, **kinds: object
) -> AsyncIterator[World]:
    """``sees``: whether there are metrics to read; a paused vLLM's say nothing anyway."""
    replicas = {name: FakeReplica(name, **kinds) for name in names}
    pool = ReplicaPool(
        replicas,
        settings,
        probes={name: one.probe for name, one in replicas.items()} if watched else {},
        loads={name: one.load for name, one in replicas.items()} if watched and sees else {},
        draw=lambda: 0.5,
    )
    transitions: list[Transition] = []
    pool.listen(transitions.append)
    watching = asyncio.create_task(pool.watch())
    try:
        if watched:
            await asyncio.sleep(0.2)  # the first look
        yield World(pool, replicas, transitions, watching)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
