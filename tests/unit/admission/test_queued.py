"""The gate as a backend around a backend: what a caller may notice of it, and what must never leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from msgspec.structs import replace

from controlplane.admission import AdmissionSettings, Gate, QueuedBackend
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError, BackendTimeout, BackendUnavailable

REQUEST = BackendRequest(call_id="c", target="risk", operation="Predict", tenant="acme", agent="a", timeout_s=30.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    """Answers when it is let; remembers who came, in order."""

    def __init__(self) -> None:
        self.came: list[BackendRequest] = []
        self.running = self.most = 0
        self.error: BackendError | None = None
        self.rung, self.status = "primary", 200

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.came.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.error is not None:
                raise self.error
            yield BackendReply(self.status, (), _nothing(), rung=self.rung)
        finally:
            self.running -= 1


async def _nothing() -> AsyncGenerator[bytes]:
    yield b""


class World:
    def __init__(self, **settings: float) -> None:
        self.clock, self.server = Clock(), Server()
        self.gate = Gate("tfs", AdmissionSettings(**{"limit_calls": 1, **settings}))
        self.backend = QueuedBackend(self.server, self.gate, self.clock)

    async def call(self, until: asyncio.Event, **said: object) -> None:
        async with self.backend.send(replace(REQUEST, **said)):
            await until.wait()


@pytest.fixture
def world() -> World:
    return World()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_reply_is_lent_out_unchanged_and_the_place_given_back(world: World) -> None:
    async with world.backend.send(REQUEST) as reply:
        assert reply.status == 200
        assert world.gate.running == 1
    assert world.gate.running == 0
    assert world.server.came == [REQUEST]


async def test_no_more_calls_than_the_limit_and_the_urgent_one_goes_first(world: World) -> None:
    until = asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        for priority in (5, 9, 5, 0):
            callers.create_task(world.call(until, priority=priority))
            await settle()
        assert world.server.running == 1
        until.set()
    assert [request.priority for request in world.server.came] == [5, 0, 5, 9]
    assert (world.server.most, world.gate.running) == (1, 0)


async def test_time_in_the_line_is_taken_from_the_time_to_answer(world: World) -> None:
    until = asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(until))
        await settle()
        callers.create_task(world.call(until))
        await settle()
        world.clock.now_s += 4.0
        until.set()
    assert [request.timeout_s for request in world.server.came] == [30.0, 26.0]


async def test_caller_who_hangs_up_leaves_the_line_and_never_reaches_the_server(world: World) -> None:
    until = asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(until))
        await settle()
        waiter = callers.create_task(world.call(until))
        await settle()
        assert len(world.gate.line) == 1
        waiter.cancel()
        await settle()
        assert len(world.gate.line) == 0
        until.set()
    assert len(world.server.came) == 1
    assert world.gate.running == 0


async def test_hang_up_at_the_moment_of_admission_gives_the_place_to_the_next(world: World) -> None:
    first, rest = asyncio.Event(), asyncio.Event()
    rest.set()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(first))
        await settle()
        gone = callers.create_task(world.call(rest, agent="gone"))
        await settle()
        callers.create_task(world.call(rest, agent="next"))
        await settle()
        first.set()
        world.gate.leave(0.0, 100.0)  # as if the first were over: `gone` is admitted, and does not know it yet
        world.gate.running += 1
        gone.cancel()
    assert [request.agent for request in world.server.came] == ["a", "next"]
    assert world.gate.running == 0


async def test_shed_call_is_told_why_and_when_to_come_back() -> None:
    world, until = World(queue_calls=0), asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(until))
        await settle()
        with pytest.raises(BackendUnavailable) as refused:
            await world.call(until)
        until.set()
    assert (refused.value.reason, refused.value.retry_after_s) == ("overloaded", 1.0)
    assert refused.value.detail == "overloaded: queue_full"
    assert len(world.server.came) == 1


async def test_call_that_has_waited_as_long_as_it_may_is_shed() -> None:
    world, until = World(queue_wait_s=0.001), asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(until))
        await settle()
        with pytest.raises(BackendUnavailable, match="waited_too_long"):
            await world.call(until)
        until.set()
    assert len(world.gate.line) == 0


async def test_displaced_caller_hears_it_at_once() -> None:
    world, until = World(queue_calls=1), asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(world.call(until))
        await settle()
        low = asyncio.create_task(world.call(until, priority=9))
        await settle()
        callers.create_task(world.call(until, priority=0))
        with pytest.raises(BackendUnavailable, match="displaced"):
            await low
        until.set()


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (BackendTimeout("deadline"), 4),
        (BackendUnavailable("busy"), 4),
        (BackendUnavailable("rate_limited"), 4),
        (BackendUnavailable("breaker_open"), 8),
    ],
)
async def test_failed_call_gives_its_place_back_and_complaints_shrink_the_limit(
    error: BackendError, limit: int
) -> None:
    world = World(limit_calls=8, adaptive=True, min_limit_calls=1)
    world.server.error = error
    with pytest.raises(type(error)):
        await world.call(asyncio.Event())
    assert (world.gate.running, world.gate.limit.calls) == (0, limit)


@pytest.mark.parametrize(
    ("rung", "status", "learns"), [("primary", 200, True), ("cache", 200, False), ("primary", 404, False)]
)
async def test_only_what_the_server_itself_answered_says_how_long_it_takes(
    rung: str, status: int, learns: bool
) -> None:
    world = World(limit_calls=8, window_calls=5)
    world.server.rung, world.server.status = rung, status
    done = asyncio.Event()
    done.set()
    send = world.server.send

    @asynccontextmanager
    async def slowly(request: BackendRequest) -> AsyncGenerator[BackendReply]:
        world.clock.now_s += 0.5
        async with send(request) as reply:
            yield reply

    world.server.send = slowly  # type: ignore[method-assign]  # a slower server of the same kind
    for _ in range(5):
        await world.call(done)
    assert bool(world.gate.limit.baseline_s) is learns


async def test_error_while_reading_gives_the_place_back_once(world: World) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.backend.send(REQUEST))
        with pytest.raises(RuntimeError):
            async with stack:
                raise RuntimeError
    assert world.gate.running == 0


async def test_priorities_outside_the_scale_are_its_ends(world: World) -> None:
    until = asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        for priority in (5, 99, -3):
            callers.create_task(world.call(until, priority=priority))
            await settle()
        until.set()
    assert [request.priority for request in world.server.came] == [5, -3, 99]
