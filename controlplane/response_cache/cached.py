"""The response cache, a backend like any other: a saved answer, or what an equal call is just getting, or a call.

Nothing is saved before its last byte has come from the model that was asked for. The reply says ``rung="cached"`` and
how old the answer is. A call without leave to be saved passes through and costs a comparison.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from controlplane.response_cache.answers import PIECE_BYTES, Saved, is_sound, is_the_models_own
from controlplane.response_cache.flights import Flight, Flights
from controlplane.response_cache.memory import MemoryStore
from controlplane.response_cache.questions import key_of
from controlplane.response_cache.settings import ResponseCacheSettings
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendTimeout
from inference.whole import Whole

CACHED_RUNG = "cached"


class SharedStore(Protocol):
    """What every gateway may look into. MUST NOT raise and MUST answer within its own deadline of milliseconds."""

    async def get(self, key: bytes) -> Saved | None: ...
    async def put(self, key: bytes, saved: Saved) -> None: ...


VersionOf = Callable[[BackendRequest], str | None]
"""Which version would answer this request: its number where the server has versions, else words that change whenever
another model is served under the name. None when it cannot be told or is not to be trusted: then nothing is saved or
given."""

Told = Callable[[str, str], None]
"""(model, event): ``hit``, ``shared_hit``, ``joined``, ``miss``, ``store``, ``evict``. MUST NOT raise."""


def quiet(model: str, event: str) -> None:  # noqa: ARG001  the shape of every listener
    return


@dataclass(frozen=True, slots=True)
class Parts:
    """What one gateway's cached backends share. ``wall`` are Unix seconds, ``monotonic`` for deadlines."""

    settings: ResponseCacheSettings
    secret: bytes
    memory: MemoryStore
    version_of: VersionOf
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    shared: SharedStore | None = None
    told: Told = quiet
    flights: Flights = field(default_factory=Flights)


@dataclass(frozen=True, slots=True)
class _Question:
    request: BackendRequest
    key: bytes
    version: str
    ttl_s: int


@dataclass(frozen=True, slots=True)
class CachedBackend:
    inner: Backend
    parts: Parts

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``."""
        if request.reuse is None:
            return self.inner.send(request)
        version = self.parts.version_of(request)
        key = None if version is None else key_of(request, version, self.parts.secret)
        if version is None or key is None:
            return self.inner.send(request)
        return self._answered(_Question(request, key, version, request.reuse.ttl_s))

    @asynccontextmanager
    async def _answered(self, question: _Question) -> AsyncGenerator[BackendReply]:
        parts, request = self.parts, question.request
        saved = parts.memory.get(question.key, parts.wall(), question.ttl_s)
        event = "hit"
        if saved is None and (ahead := parts.flights.find(question.key)) is not None:
            started_s, event = parts.monotonic(), "joined"
            saved = await ahead.awaited(request.timeout_s * parts.settings.follow_ratio)
            if saved is None:  # what it brought is nothing for us, or not here yet: each goes alone
                parts.told(request.target, "miss")
                async with self.inner.send(self._with_time_left(request, started_s)) as reply:
                    yield reply
                return
        if saved is not None:
            parts.told(request.target, event)
            yield self._given(saved)
            return
        async with self._led(question) as reply:
            yield reply

    @asynccontextmanager
    async def _led(self, question: _Question) -> AsyncGenerator[BackendReply]:
        parts, request = self.parts, question.request
        flight = parts.flights.begin(question.key)
        try:
            saved = await self._shared(question)
            if saved is not None:
                flight.land(saved)
                parts.told(request.target, "shared_hit")
                yield self._given(saved)
                return
            parts.told(request.target, "miss")
            async with self.inner.send(request) as reply:
                if not is_the_models_own(reply, request, question.version):
                    flight.land(None)
                    yield reply
                    return
                if isinstance(reply.chunks, Whole):
                    saved = self._saved(reply, [reply.chunks.body], question, flight)
                    if saved is None:
                        flight.land(None)
                    yield reply
                    await self._share(saved, question)
                    return
                async with aclosing(self._saving(reply, question, flight)) as chunks:
                    yield replace(reply, chunks=chunks)
        finally:
            parts.flights.end(question.key, flight)

    async def _saving(self, reply: BackendReply, question: _Question, flight: Flight) -> AsyncGenerator[bytes]:
        """The reply as it is; saved when its last byte has come. Who waits for one too large waits no longer."""
        pieces: list[bytes] = []
        size, limit = 0, self.parts.settings.entry_bytes
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                size += len(chunk) + PIECE_BYTES
                if size <= limit:
                    pieces.append(chunk)
                elif not flight.has_landed:
                    pieces.clear()
                    flight.land(None)
                yield chunk
        if size <= limit:
            await self._share(self._saved(reply, pieces, question, flight), question)

    def _saved(self, reply: BackendReply, pieces: list[bytes], question: _Question, flight: Flight) -> Saved | None:
        """The whole answer, kept and given to those who wait; None when it is not worth it."""
        size = sum(len(piece) + PIECE_BYTES for piece in pieces)
        if size > self.parts.settings.entry_bytes or not is_sound(question.request, b"".join(pieces)):
            return None
        saved = Saved.of(reply, pieces, self.parts.wall(), question.ttl_s)
        self._keep(saved, question)
        flight.land(saved)
        self.parts.told(question.request.target, "store")
        return saved

    async def _share(self, saved: Saved | None, question: _Question) -> None:
        if saved is not None and self.parts.shared is not None:
            await self.parts.shared.put(question.key, saved)

    async def _shared(self, question: _Question) -> Saved | None:
        """From the store of all gateways, kept here as well for the next time."""
        parts = self.parts
        if parts.shared is None:
            return None
        saved = await parts.shared.get(question.key)
        if saved is None or not saved.is_fresh(parts.wall(), question.ttl_s):
            return None
        self._keep(saved, question)
        return saved

    def _keep(self, saved: Saved, question: _Question) -> None:
        for _ in range(self.parts.memory.put(question.key, saved)):
            self.parts.told(question.request.target, "evict")

    def _given(self, saved: Saved) -> BackendReply:
        return BackendReply(
            status=200,
            headers=saved.headers,
            chunks=Whole(saved.pieces[0]) if len(saved.pieces) == 1 else _replayed(saved.pieces),
            served_by=saved.served_by,
            rung=CACHED_RUNG,
            usage=saved.usage(),
            age_s=max(0, int(self.parts.wall() - saved.made_at_s)),
        )

    def _with_time_left(self, request: BackendRequest, started_s: float) -> BackendRequest:
        left_s = request.timeout_s - (self.parts.monotonic() - started_s)
        if left_s <= 0:
            raise BackendTimeout("deadline", "the time was up while an equal call was under way")
        return replace(request, timeout_s=left_s)


async def _replayed(pieces: tuple[bytes, ...]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece
