"""Resilience is a backend around a backend: the gateway never learns that a breaker is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from msgspec.structs import replace

from controlplane.resilience.breaker import CircuitBreaker, Permit, State
from controlplane.resilience.lessons import Verdict, verdict_of, verdict_of_status
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.leaving import leave
from inference.whole import Whole

GENERATES = frozenset({"chat", "completions", "messages", "responses"})
"""Operations whose whole answer takes as long as the caller wants it to be."""

PROBED_ELSEWHERE_S = 1.0
ABANDONED = Verdict.ABANDONED


class ProbeLeases(Protocol):
    """Sees to it that of several gateways one probes. Asked for probes alone, never on the quiet path."""

    async def take(self, name: str) -> str | None:
        """A token; None when another gateway probes just now. MUST answer soon, and MUST NOT raise."""
        ...

    def give_back(self, name: str, token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class GuardedBackend:
    """Asks ``breaker`` before each call and tells it afterwards, however the call ends.

    The time that counts is the one to the first byte of a streamed reply and to the last byte of any other. A caller
    who leaves a stream that has begun has seen it work; one who leaves earlier gives at least a probe's place back.
    Only what the backend raises counts: whoever reads its answer may fail without hurting its name.
    """

    inner: Backend
    breaker: CircuitBreaker
    now: Callable[[], float]
    leases: ProbeLeases | None = None  # None: this gateway is alone

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``.

        Raises:
            BackendUnavailable: ``breaker_open`` with the time to come back, or ``breaker_held`` with who holds it.
        """
        return Exchange(self.inner, self.breaker, self.now, self.leases, request)

    def refusal(self) -> BackendUnavailable | None:
        """What to say to a call that can be no probe; None when nothing is in its way."""
        return None if self.breaker.state is State.CLOSED else refusal_of(self.breaker, self.now())


class Exchange(AbstractAsyncContextManager[BackendReply]):
    """One call. A class, because a generator costs twice as much on the quiet path. Reports exactly once."""

    __slots__ = (
        "_breaker",
        "_chunks",
        "_elapsed_s",
        "_inner",
        "_lease",
        "_leases",
        "_now",
        "_opened",
        "_permit",
        "_request",
        "_started_s",
        "_verdict",
    )

    def __init__(
        self,
        inner: Backend,
        breaker: CircuitBreaker,
        now: Callable[[], float],
        leases: ProbeLeases | None,
        request: BackendRequest,
    ) -> None:
        self._inner, self._breaker, self._now, self._leases, self._request = inner, breaker, now, leases, request
        self._permit: Permit | None = None  # None once it is reported
        self._lease: str | None = None
        self._chunks: AsyncGenerator[bytes] | None = None
        self._verdict = ABANDONED

    async def __aenter__(self) -> BackendReply:
        breaker, request = self._breaker, self._request
        started_s = self._started_s = self._now()
        permit = self._permit = breaker.admit(started_s)
        if permit is None:
            raise refusal_of(breaker, started_s)
        try:
            if permit.probe and self._leases is not None:
                self._lease = await self._take_lease(self._leases)
                await asyncio.sleep(0)  # whoever hung up meanwhile goes no further
            self._opened = self._inner.send(request)
            reply = await self._opened.__aenter__()
        except BaseException as error:
            verdict = verdict_of(error) if isinstance(error, BackendError) else ABANDONED
            now_s = self._now()
            self._report(verdict, now_s - started_s, now_s)
            raise
        now_s = self._now()
        self._elapsed_s = now_s - started_s
        if isinstance(reply.chunks, Whole):
            self._report(verdict_of_status(reply.status), self._elapsed_s, now_s)
            return reply
        self._chunks = self._watched(reply)
        return replace(reply, chunks=self._chunks)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await leave(self._opened, self._chunks, error, trace)
        finally:
            if self._permit is not None:
                self._report(self._verdict, self._elapsed_s, self._now())

    async def _watched(self, reply: BackendReply) -> AsyncGenerator[bytes]:
        inner, verdict, streams = reply.chunks, verdict_of_status(reply.status), self._request.streams
        has_begun, waited_s = False, self._elapsed_s
        async with aclosing(inner):
            while True:
                asked_s = self._now()
                try:
                    chunk = await anext(inner, None)
                except BackendError as error:
                    self._verdict = verdict_of(error)
                    raise
                finally:
                    if not (streams and has_begun):
                        waited_s += self._now() - asked_s
                        self._elapsed_s = waited_s
                if chunk is None:
                    break
                if streams and not has_begun:
                    has_begun, self._verdict = True, verdict
                yield chunk
        self._verdict = verdict

    async def _take_lease(self, leases: ProbeLeases) -> str:
        """Raises ``BackendUnavailable``: ``breaker_open`` while another gateway probes."""
        lease = await leases.take(self._breaker.name)
        if lease is None:
            detail = f"{self._breaker.name} is {self._breaker.state}: another gateway probes it"
            raise BackendUnavailable("breaker_open", detail, retry_after_s=PROBED_ELSEWHERE_S)
        return lease

    def _report(self, verdict: Verdict, elapsed_s: float, now_s: float) -> None:
        permit, breaker, request, slow_s = self._permit, self._breaker, self._request, None
        if permit is None:
            return
        self._permit = None
        if request.operation in GENERATES and not request.streams:
            slow_s = breaker.slow_generation_s
        breaker.report(permit, verdict, elapsed_s, now_s, slow_s)
        if self._lease is not None and self._leases is not None:
            self._leases.give_back(breaker.name, self._lease)


def refusal_of(breaker: CircuitBreaker, now_s: float) -> BackendUnavailable:
    if breaker.state is State.HELD:
        return BackendUnavailable("breaker_held", f"{breaker.name} is held: {', '.join(breaker.holds)}")
    detail = f"{breaker.name} is {breaker.state}: {breaker.reason}"
    return BackendUnavailable("breaker_open", detail, retry_after_s=breaker.retry_after_s(now_s))
