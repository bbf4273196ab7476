"""Resilience is a backend around a backend: the gateway never learns that a breaker is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from controlplane.resilience.breaker import CircuitBreaker, State
from controlplane.resilience.lessons import Verdict, verdict_of, verdict_of_status
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.whole import Whole

GENERATES = frozenset({"chat", "completions", "messages", "responses"})
"""Operations whose whole answer takes as long as the caller wants it to be."""

PROBED_ELSEWHERE_S = 1.0


class ProbeLeases(Protocol):
    """Sees to it that of several gateways one probes. Asked for probes alone, never on the quiet path."""

    async def take(self, name: str) -> str | None:
        """A token; None when another gateway probes just now. MUST answer soon, and MUST NOT raise."""
        ...

    def give_back(self, name: str, token: str) -> None: ...


@dataclass(slots=True)
class Watch:
    """What one call taught so far, and how long the backend itself took for it: a slow reader is not a slow model."""

    verdict: Verdict = Verdict.ABANDONED
    elapsed_s: float | None = None  # None until the head of the reply is here


@dataclass(frozen=True, slots=True)
class GuardedBackend:
    """Asks ``breaker`` before each call and tells it afterwards, however the call ends.

    The time that counts is the one to the first byte of a streamed reply and to the last byte of any other. A caller
    who leaves a stream that has begun has seen it work; one who leaves earlier gives at least a probe's place back.
    """

    inner: Backend
    breaker: CircuitBreaker
    now: Callable[[], float]
    leases: ProbeLeases | None = None  # None: this gateway is alone

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        """See ``Backend.send``.

        Raises:
            BackendUnavailable: ``breaker_open`` with the time to come back, or ``breaker_held`` with who holds it.
        """
        started_s = self.now()
        permit = self.breaker.admit(started_s)
        if permit is None:
            raise self._refusal(started_s)
        watch, lease = Watch(), None
        try:
            if permit.probe and self.leases is not None:
                lease = await self._lease(self.leases)
            async with self.inner.send(request) as reply:
                watch.elapsed_s = self.now() - started_s
                if isinstance(reply.chunks, Whole):
                    watch.verdict = verdict_of_status(reply.status)
                    yield reply
                else:
                    async with aclosing(self._watched(reply, watch, streams=request.streams)) as chunks:
                        yield replace(reply, chunks=chunks)
        except BackendError as error:
            watch.verdict = verdict_of(error)
            raise
        finally:
            now_s = self.now()
            elapsed_s = now_s - started_s if watch.elapsed_s is None else watch.elapsed_s
            slow_s = None
            if not request.streams and request.operation in GENERATES:
                slow_s = self.breaker.slow_generation_s
            self.breaker.report(permit, watch.verdict, elapsed_s, now_s, slow_s)
            if lease is not None and self.leases is not None:
                self.leases.give_back(self.breaker.name, lease)

    async def _lease(self, leases: ProbeLeases) -> str:
        """Raises ``BackendUnavailable``: ``breaker_open`` while another gateway probes."""
        lease = await leases.take(self.breaker.name)
        if lease is None:
            detail = f"{self.breaker.name} is {self.breaker.state}: another gateway probes it"
            raise BackendUnavailable("breaker_open", detail, retry_after_s=PROBED_ELSEWHERE_S)
        return lease

    def refusal(self) -> BackendUnavailable | None:
        """What to say to a call that can be no probe; None when nothing is in its way."""
        return None if self.breaker.state is State.CLOSED else self._refusal(self.now())

    async def _watched(self, reply: BackendReply, watch: Watch, *, streams: bool) -> AsyncGenerator[bytes]:
        inner, verdict, waited_s = reply.chunks, verdict_of_status(reply.status), watch.elapsed_s or 0.0
        async with aclosing(inner):
            while True:
                asked_s = self.now()
                try:
                    chunk = await anext(inner, None)
                finally:
                    if not (streams and watch.verdict is verdict):
                        waited_s += self.now() - asked_s
                        watch.elapsed_s = waited_s
                if chunk is None:
                    break
                if streams:
                    watch.verdict = verdict
                yield chunk
        watch.verdict = verdict

    def _refusal(self, now_s: float) -> BackendUnavailable:
        breaker = self.breaker
        if breaker.state is State.HELD:
            return BackendUnavailable("breaker_held", f"{breaker.name} is held: {', '.join(breaker.holds)}")
        detail = f"{breaker.name} is {breaker.state}: {breaker.reason}"
        return BackendUnavailable("breaker_open", detail, retry_after_s=breaker.retry_after_s(now_s))
