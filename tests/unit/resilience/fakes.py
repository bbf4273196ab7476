"""A clock that moves when told and a backend that does what it is told, and remembers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from inference.backend import BackendReply, BackendRequest


@dataclass
class FakeClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeBackend:
    """Takes ``head_s`` to the head and ``chunk_s`` to each chunk; an exception among ``chunks`` is raised there."""

    clock: FakeClock
    chunks: tuple[bytes | Exception, ...] = (b"answer",)
    error: BaseException | None = None
    status: int = 200
    head_s: float = 0.0
    chunk_s: float = 0.0
    served_by: str = "risk/2"
    rung: str = "primary"
    requests: list[BackendRequest] = field(default_factory=list)
    open_calls: int = 0

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.requests.append(request)
        self.clock.now_s += self.head_s
        if self.error is not None:
            raise self.error
        self.open_calls += 1
        try:
            async with aclosing(self.body()) as body:
                yield BackendReply(self.status, (("content-type", "x/y"),), body, self.served_by, self.rung)
        finally:
            self.open_calls -= 1

    async def body(self) -> AsyncGenerator[bytes]:
        for chunk in self.chunks:
            self.clock.now_s += self.chunk_s
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
