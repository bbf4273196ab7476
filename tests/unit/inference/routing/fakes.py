"""A replica with a memory that can be put into every state a real server was seen in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError, BackendTimeout, BackendUnavailable
from inference.routing import Load
from inference.whole import Whole


def now() -> float:
    return asyncio.get_running_loop().time()


class FakeReplica:
    """``answer_s`` to the head; a stream then has ``tokens`` chunks, ``token_s`` apart.

    Frozen, asleep and paused servers let a request wait and go on where they were; they differ in what the metrics say.
    """

    def __init__(self, name: str, *, answer_s: float = 0.1, tokens: int = 3, token_s: float = 0.05) -> None:
        self.name, self.answer_s, self.tokens, self.token_s = name, answer_s, tokens, token_s
        self.asked: list[tuple[float, BackendRequest]] = []
        self.probed: list[float] = []
        self.cancelled = self.under_way = self.most_under_way = 0
        self.worked = 0.0
        self.error: BackendError | None = None
        self.is_asleep = False
        self.metrics_broken = False
        self.probe_bug: Exception | None = None
        self.probe_s = 0.01
        self.load_bug: Exception | None = None
        self._moves = asyncio.Event()
        self._moves.set()

    def freeze(self) -> None:
        self._moves.clear()

    def thaw(self) -> None:
        self._moves.set()

    def sleep(self) -> None:
        self.is_asleep = True
        self.freeze()

    def wake(self) -> None:
        self.is_asleep = False
        self.thaw()

    def kill(self) -> None:
        self.error, self.metrics_broken = BackendUnavailable("connect_failed"), True

    def restart(self) -> None:
        self.error, self.metrics_broken = None, False

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked.append((now(), request))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        until_s = now() + request.timeout_s
        try:
            await self._work(self.answer_s, until_s)
            async with aclosing(self._body(request, until_s)) as chunks:
                yield BackendReply(status=200, headers=(), chunks=chunks, served_by=self.name)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def probe(self) -> None:
        self.probed.append(now())
        if self.probe_bug:
            raise self.probe_bug
        await self._work(self.probe_s)

    async def load(self) -> Load:
        if self.load_bug:
            raise self.load_bug
        if self.metrics_broken:
            raise BackendUnavailable("metrics_unreadable")
        running = 0 if not self._moves.is_set() else self.under_way  # a frozen vLLM says that nothing runs
        return Load(running=running, is_asleep=self.is_asleep, worked=self.worked)

    def _body(self, request: BackendRequest, until_s: float) -> AsyncGenerator[bytes]:
        """A plain reply is here whole, as a real server's is."""
        if request.streams:
            return self._chunks(until_s)
        self.worked += 1
        return Whole(self.name.encode())

    async def _chunks(self, until_s: float) -> AsyncGenerator[bytes]:
        for number in range(self.tokens):
            if number:
                await self._work(self.token_s, until_s)
            self.worked += 1
            yield self.name.encode()

    async def _work(self, span_s: float, until_s: float = float("inf")) -> None:
        if self.error is not None:
            raise self.error
        try:
            async with asyncio.timeout_at(until_s):
                await asyncio.sleep(span_s)
                await self._moves.wait()
        except TimeoutError:
            raise BackendTimeout("deadline") from None
        if self.error is not None:
            raise self.error


def chat(
    call_id: str = "call-1", *, streams: bool = True, body: bytes = b"", timeout_s: float = 60.0
) -> BackendRequest:
    return BackendRequest(
        call_id=call_id, target="tiny", operation="chat", body=body, streams=streams, timeout_s=timeout_s
    )


def predict(call_id: str = "call-1", *, timeout_s: float = 60.0) -> BackendRequest:
    return BackendRequest(call_id=call_id, target="risk", operation="Predict", timeout_s=timeout_s)
