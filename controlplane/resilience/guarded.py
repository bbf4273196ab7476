"""Resilience is a backend around a backend: the gateway never learns that a breaker is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

from controlplane.resilience.breaker import CircuitBreaker, State, Verdict
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendRejected, BackendUnavailable
from inference.whole import Whole

UNREACHABLE = frozenset({"connect_failed", "connect_timeout", "dns_failed"})
"""Reasons of ``BackendUnavailable`` that mean that there was no connection at all."""

NOT_ITS_FAULT = frozenset({"rate_limited", "breaker_open", "breaker_held", "credential_missing", "closed"})
"""Reasons that say nothing about the backend's health: it set a limit, or we never asked it."""


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
        watch = Watch()
        try:
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
            self.breaker.report(permit, watch.verdict, elapsed_s, now_s)

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


def verdict_of(error: BackendError) -> Verdict:
    if isinstance(error, BackendRejected) or error.reason in NOT_ITS_FAULT:
        return Verdict.TAUGHT_NOTHING
    if isinstance(error, BackendUnavailable) and error.reason in UNREACHABLE:
        return Verdict.UNREACHABLE
    return Verdict.FAILED


def verdict_of_status(status: int) -> Verdict:
    """A 4xx is about the request: it neither proves the backend sick nor well."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Verdict.FAILED
    return Verdict.TAUGHT_NOTHING if status >= HTTPStatus.BAD_REQUEST else Verdict.SUCCEEDED
