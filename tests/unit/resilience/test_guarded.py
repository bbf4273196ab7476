"""A breaker around a backend: what is measured, what counts, and that every permit is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from controlplane.resilience.breaker import CircuitBreaker, State, Verdict
from controlplane.resilience.guarded import GuardedBackend
from controlplane.resilience.settings import BreakerSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.whole import Whole
from tests.unit.resilience.fakes import FakeBackend, FakeClock

PLAIN = BackendRequest(call_id="1", target="risk", operation="Predict")
STREAM = BackendRequest(call_id="1", target="tiny", operation="chat", streams=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker("risk/2", BreakerSettings())


def half_open(breaker: CircuitBreaker, clock: FakeClock) -> None:
    for _ in range(20):
        permit = breaker.admit(clock.now_s)
        assert permit is not None
        breaker.report(permit, Verdict.FAILED, 0.0, clock.now_s)
    clock.now_s += 5.0


async def whole(backend: GuardedBackend, request: BackendRequest = PLAIN) -> bytes:
    async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_good_answer_counts_once_and_passes_whole(breaker: CircuitBreaker, clock: FakeClock) -> None:
    assert await whole(GuardedBackend(FakeBackend(clock, (b"a", b"b")), breaker, clock)) == b"ab"
    assert breaker.counts(clock.now_s) == (1, 0, 0)


async def test_whole_answer_is_measured_when_plain(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock, (b"a", b"b", b"c"), head_s=0.3, chunk_s=0.2)
    await whole(GuardedBackend(inner, breaker, clock))
    assert breaker.counts(clock.now_s) == (1, 0, 1)


async def test_only_the_first_byte_is_measured_when_streamed(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock, (b"a", b"b", b"c"), head_s=0.3, chunk_s=0.2)
    await whole(GuardedBackend(inner, breaker, clock), STREAM)
    assert breaker.counts(clock.now_s) == (1, 0, 0)
    inner.chunk_s = 0.6
    await whole(GuardedBackend(inner, breaker, clock), STREAM)
    assert breaker.counts(clock.now_s) == (2, 0, 1)


async def test_slow_reader_is_not_a_slow_model(breaker: CircuitBreaker, clock: FakeClock) -> None:
    backend = GuardedBackend(FakeBackend(clock, (b"a", b"b")), breaker, clock)
    async with backend.send(PLAIN) as reply:
        async for _ in reply.chunks:
            clock.now_s += 1.0
    assert breaker.counts(clock.now_s) == (1, 0, 0)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (BackendTimeout("first_byte_timeout"), (1, 1, 0)),
        (BackendTimeout("stalled"), (1, 1, 0)),
        (BackendBroke("hung_up"), (1, 1, 0)),
        (BackendBroke("upstream_500"), (1, 1, 0)),
        (BackendUnavailable("busy"), (0, 0, 0)),
        (BackendUnavailable("no_replica"), (0, 0, 0)),
        (BackendUnavailable("overloaded"), (0, 0, 0)),
        (BackendUnavailable("connect_failed"), (1, 1, 0)),
        (BackendUnavailable("rate_limited"), (0, 0, 0)),
        (BackendRejected("bad_signature"), (0, 0, 0)),
    ],
)
async def test_failures_count_and_refusals_do_not(
    breaker: CircuitBreaker, clock: FakeClock, error: BackendError, counted: tuple[int, int, int]
) -> None:
    with pytest.raises(type(error)):
        await whole(GuardedBackend(FakeBackend(clock, error=error), breaker, clock))
    assert breaker.counts(clock.now_s) == counted


@pytest.mark.parametrize(("waited_s", "counted"), [(0.1, (0, 0, 0)), (0.9, (1, 1, 0))])
async def test_deadline_that_passed_is_a_failure_only_if_it_gave_the_time_of_a_slow_call(
    breaker: CircuitBreaker, clock: FakeClock, waited_s: float, counted: tuple[int, int, int]
) -> None:
    """Else one impatient agent could open the breaker for all."""
    inner = FakeBackend(clock, error=BackendTimeout("deadline"), head_s=waited_s)
    with pytest.raises(BackendTimeout):
        await whole(GuardedBackend(inner, breaker, clock))
    assert breaker.counts(clock.now_s) == counted


@pytest.mark.parametrize(("operation", "slow"), [("chat", 0), ("messages", 0), ("embeddings", 1), ("Predict", 1)])
async def test_long_answers_that_are_generated_whole_are_not_slow(
    breaker: CircuitBreaker, clock: FakeClock, operation: str, slow: int
) -> None:
    request = BackendRequest(call_id="1", target="tiny", operation=operation)
    backend = GuardedBackend(FakeBackend(clock, chunk_s=20.0), breaker, clock)
    await whole(backend, request)
    assert breaker.counts(clock.now_s) == (1, 0, slow)


async def test_generated_answer_may_still_take_too_long(breaker: CircuitBreaker, clock: FakeClock) -> None:
    request = BackendRequest(call_id="1", target="tiny", operation="chat")
    await whole(GuardedBackend(FakeBackend(clock, chunk_s=30.0), breaker, clock), request)
    inner = FakeBackend(clock, error=BackendTimeout("deadline"), head_s=30.0)
    with pytest.raises(BackendTimeout):
        await whole(GuardedBackend(inner, breaker, clock), request)
    assert breaker.counts(clock.now_s) == (2, 1, 1)


@pytest.mark.parametrize(
    ("reason", "word"),
    [("first_byte_timeout", "first_token_late"), ("stalled", "stalled"), ("hung_up", "error_rate")],
)
async def test_breaker_says_which_limit_its_model_failed_to_keep(
    breaker: CircuitBreaker, clock: FakeClock, reason: str, word: str
) -> None:
    backend = GuardedBackend(FakeBackend(clock, error=BackendTimeout(reason)), breaker, clock)
    for _ in range(20):
        with pytest.raises(BackendTimeout):
            await whole(backend, STREAM)
    with pytest.raises(BackendUnavailable, match=word) as caught:
        await whole(backend, STREAM)
    assert (breaker.reason, caught.value.reason) == (word, "breaker_open")


@pytest.mark.parametrize(("status", "counted"), [(404, (0, 0, 0)), (429, (0, 0, 0)), (500, (1, 1, 0))])
async def test_status_of_a_reply_counts_as_what_it_means(
    breaker: CircuitBreaker, clock: FakeClock, status: int, counted: tuple[int, int, int]
) -> None:
    await whole(GuardedBackend(FakeBackend(clock, status=status), breaker, clock))
    assert breaker.counts(clock.now_s) == counted


async def test_five_lost_connections_open_and_nothing_more_goes_out(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock, error=BackendUnavailable("connect_failed"))
    backend = GuardedBackend(inner, breaker, clock)
    for _ in range(10):
        with pytest.raises(BackendUnavailable) as caught:
            await whole(backend)
    assert len(inner.requests) == 5
    assert (caught.value.reason, caught.value.retry_after_s) == ("breaker_open", 5.0)


async def test_held_breaker_says_who_holds_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.hold("drift_verdict", clock.now_s)
    with pytest.raises(BackendUnavailable, match="drift_verdict") as caught:
        await whole(GuardedBackend(FakeBackend(clock), breaker, clock))
    assert (caught.value.reason, caught.value.retry_after_s) == ("breaker_held", None)


async def test_stream_that_breaks_later_is_a_failure(breaker: CircuitBreaker, clock: FakeClock) -> None:
    backend = GuardedBackend(FakeBackend(clock, (b"a", BackendBroke("cut"))), breaker, clock)
    with pytest.raises(BackendBroke):
        await whole(backend, STREAM)
    assert breaker.counts(clock.now_s) == (1, 1, 0)


async def test_caller_who_leaves_a_running_stream_has_seen_it_work(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock, (b"a", b"b"))
    async with GuardedBackend(inner, breaker, clock).send(STREAM) as reply:
        await anext(reply.chunks)
    assert breaker.counts(clock.now_s) == (1, 0, 0)
    assert inner.open_calls == 0


@pytest.mark.parametrize("request_", [PLAIN, STREAM])
async def test_probe_abandoned_before_its_first_byte_gives_its_place_back(
    breaker: CircuitBreaker, clock: FakeClock, request_: BackendRequest
) -> None:
    half_open(breaker, clock)
    backend = GuardedBackend(FakeBackend(clock), breaker, clock)
    async with backend.send(request_):
        assert breaker.admit(clock.now_s) is None
    assert breaker.state is State.HALF_OPEN
    for _ in range(4):
        await whole(backend, request_)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("waited_s", "slow"), [(0.1, 0), (0.9, 1)])
async def test_cancelled_wait_is_a_slow_call_only_if_it_was_long(
    breaker: CircuitBreaker, clock: FakeClock, waited_s: float, slow: int
) -> None:
    inner = FakeBackend(clock, error=asyncio.CancelledError(), head_s=waited_s)
    with pytest.raises(asyncio.CancelledError):
        await whole(GuardedBackend(inner, breaker, clock))
    assert breaker.counts(clock.now_s) == (slow, 0, slow)


async def test_callers_own_exception_passes_and_teaches_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock)

    async def use() -> None:
        async with GuardedBackend(inner, breaker, clock).send(PLAIN):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await use()
    assert (breaker.counts(clock.now_s).calls, inner.open_calls) == (0, 0)


@pytest.mark.parametrize("request_", [PLAIN, STREAM])
async def test_who_reads_an_answer_may_fail_without_hurting_the_backend(
    breaker: CircuitBreaker, clock: FakeClock, request_: BackendRequest
) -> None:
    """As a duty to mask that cannot read what the model said."""
    backend = GuardedBackend(FakeBackend(clock), breaker, clock)

    async def read() -> None:
        async with backend.send(request_) as reply:
            async for _ in reply.chunks:
                pass
            raise BackendBroke("redact_reply_unreadable")

    for _ in range(40):
        with pytest.raises(BackendBroke, match="redact"):
            await read()
    assert breaker.counts(clock.now_s) == (40, 0, 0)


async def test_reply_that_is_here_whole_is_judged_at_once_and_once(breaker: CircuitBreaker, clock: FakeClock) -> None:
    @dataclass
    class AtOnce:
        left: int = 0

        @asynccontextmanager
        async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
            try:
                yield BackendReply(200, (), Whole(b"answer"))
            finally:
                self.left += 1

    inner = AtOnce()
    async with GuardedBackend(inner, breaker, clock).send(PLAIN) as reply:
        assert breaker.counts(clock.now_s) == (1, 0, 0)
        assert reply.chunks.take() == b"answer"
        clock.now_s += 5.0
    assert (breaker.counts(clock.now_s), inner.left) == ((1, 0, 0), 1)


async def test_leaving_with_an_error_hangs_up_and_passes_it_on(breaker: CircuitBreaker, clock: FakeClock) -> None:
    inner = FakeBackend(clock, (b"a", b"b"))

    async def leave() -> None:
        async with GuardedBackend(inner, breaker, clock).send(STREAM) as reply:
            await anext(reply.chunks)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await leave()
    assert (inner.open_calls, breaker.counts(clock.now_s)) == (0, (1, 0, 0))
