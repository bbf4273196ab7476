"""Breakers of two gateways and a real Redis: one probes, holds are everybody's, and without Redis each is alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from controlplane.resilience.breaker import State, Transition, Verdict
from controlplane.resilience.breakers import Breakers, GuardedByVersion
from controlplane.resilience.settings import BreakerSettings, SharingSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendUnavailable
from tests.real.redis_server import Redis, RedisServer
from tests.unit.resilience.fakes import FakeClock

pytestmark = pytest.mark.real("redis")

redis_breakers = pytest.importorskip("controlplane.resilience.redis_breakers", reason="redis is not installed")
SharedBreakers, EVENTS, HOLDS, PROBE = (
    redis_breakers.SharedBreakers,
    redis_breakers.EVENTS,
    redis_breakers.HOLDS,
    redis_breakers.PROBE,
)
REQUEST = BackendRequest(call_id="1", target="risk", operation="Predict", version=2)
PATIENCE_S = 60


@dataclass
class Backend:
    """One backend for all gateways. Probes wait in it for ``answer``."""

    answer: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most: int = 0
    asked: int = 0

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.answer.wait()
            yield BackendReply(200, (), _body())
        finally:
            self.under_way -= 1


async def _body() -> AsyncGenerator[bytes]:
    yield b"answer"


@dataclass
class Gateway:
    name: str
    breakers: Breakers
    shared: Any
    backend: GuardedByVersion
    clock: FakeClock
    reached: list[bool]
    recorded: list[tuple[str, Mapping[str, Any]]]

    def trip(self) -> None:
        breaker = self.breakers.of("risk", 2)
        for _ in range(5):
            permit = breaker.admit(self.clock.now_s)
            assert permit is not None
            breaker.report(permit, Verdict.UNREACHABLE, 0.0, self.clock.now_s)
        assert breaker.state is State.OPEN

    @property
    def state(self) -> State:
        return self.breakers.of("risk", 2).state

    async def call(self) -> str:
        try:
            async with self.backend.send(REQUEST) as reply:
                return b"".join([chunk async for chunk in reply.chunks]).decode()
        except BackendUnavailable as error:
            return error.reason


@dataclass
class World:
    redis: RedisServer
    stack: AsyncExitStack
    backend: Backend = field(default_factory=Backend)
    wall_s: float = 1_000_000.0

    async def gateway(
        self, name: str, said: Mapping[Any, Any] | None = None, *, runs: bool = True, **more: Any
    ) -> Gateway:
        client = await self.stack.enter_async_context(self.redis.client())
        clock, reached, recorded = FakeClock(100.0), [], []
        breakers = Breakers(lambda _: BreakerSettings(), clock, jitter=lambda: 0.5)
        for held, word in more.pop("held", ()):
            breakers.hold(held, word)

        async def append(kind: str, body: Mapping[str, Any]) -> None:
            recorded.append((kind, body))

        shared = breakers.leases = SharedBreakers(
            client,
            breakers,
            SharingSettings(shared=True, deadline_ms=5000, pause_s=0.02, sync_s=0.02),
            gateway=name,
            lease_s=30.0,
            monotonic=clock,
            wall=lambda: self.wall_s,
            reached=reached.append,
            append=more.get("append", append),
        )
        shared.begin(said or {})
        if runs:
            task = asyncio.create_task(shared.keep())
            self.stack.push_async_callback(ended, task)
        backend = GuardedByVersion(self.backend, breakers, clock)
        return Gateway(name, breakers, shared, backend, clock, reached, recorded)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the state is another task's
            await asyncio.sleep(0.005)


@pytest.fixture
async def world(redis: RedisServer, client: Redis) -> AsyncGenerator[World]:
    async with AsyncExitStack() as stack:
        yield World(redis, stack)


async def cooled(world: World) -> tuple[Gateway, Gateway]:
    """Two gateways whose breakers are open and have cooled down."""
    pair = await world.gateway("a", runs=False), await world.gateway("b", runs=False)
    for gateway in pair:
        gateway.trip()
        gateway.clock.now_s += 5.0
    return pair


async def test_of_two_hundred_callers_at_two_gateways_exactly_one_probes(world: World) -> None:
    one, other = await cooled(world)
    callers = [asyncio.create_task(gateway.call()) for gateway in (one, other) for _ in range(100)]
    await until(lambda: sum(caller.done() for caller in callers) == 199)
    assert world.backend.asked == 1
    world.backend.answer.set()
    answers = [await caller for caller in callers]
    assert sorted(set(answers)) == ["answer", "breaker_open"]
    assert answers.count("answer") == 1


async def test_gateways_probe_in_turn_until_each_is_convinced(world: World) -> None:
    one, other = await cooled(world)
    world.backend.answer.set()

    async def keep_calling(gateway: Gateway) -> None:
        while gateway.state is not State.CLOSED:
            await gateway.call()
            await asyncio.sleep(0.002)

    async def keep_ticking() -> None:
        while {one.state, other.state} != {State.CLOSED}:
            await asyncio.sleep(0.01)
            one.clock.now_s = other.clock.now_s = one.clock.now_s + 0.1

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_ticking())
        for gateway in (one, other):
            for _ in range(10):
                tasks.create_task(keep_calling(gateway))
    assert world.backend.asked >= 8, "four good probes for each"


async def test_probe_whose_caller_left_lets_the_other_gateway_probe(world: World, client: Redis) -> None:
    one, other = await cooled(world)
    leaving = asyncio.create_task(one.call())
    await until(lambda: world.backend.under_way == 1)
    assert await other.call() == "breaker_open"
    leaving.cancel()
    await asyncio.wait([leaving])
    other.clock.now_s += 0.2
    world.backend.answer.set()
    await until_gone(client)
    assert await other.call() == "answer"


async def until_gone(client: Redis) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await client.exists(f"{PROBE}risk/2"):  # noqa: ASYNC110  Redis has no event to give
            await asyncio.sleep(0.005)


async def test_hang_up_while_the_lease_is_taken_leaves_none_behind(world: World, client: Redis) -> None:
    one, _ = await cooled(world)
    await one.shared.sync()  # so that there is a connection
    await client.client_pause(60_000, all=False)  # what writes waits until it is told to go on
    leaving = asyncio.create_task(one.call())
    await until_asked(client)
    leaving.cancel()
    await client.client_unpause()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert world.backend.asked == 0
    await until_gone(client)
    await asyncio.wait([*one.shared._giving.values(), asyncio.create_task(asyncio.sleep(0))])
    assert not await client.exists(f"{PROBE}risk/2")
    assert one.state is State.HALF_OPEN


async def until_asked(client: Redis) -> None:
    """Until somebody's write waits in Redis."""
    async with asyncio.timeout(PATIENCE_S):
        while not (await client.info("clients"))["blocked_clients"]:  # noqa: ASYNC110  Redis has no event to give
            await asyncio.sleep(0.005)


async def test_gateway_that_died_as_it_probed_gives_way_when_its_lease_ends(world: World, client: Redis) -> None:
    one, other = await cooled(world)
    token = await one.shared.take("risk/2")
    assert token
    assert 0 < await client.pttl(f"{PROBE}risk/2") <= 30_000
    assert await other.shared.take("risk/2") is None
    await client.delete(f"{PROBE}risk/2")  # as Redis does in 30 s
    assert await other.shared.take("risk/2") is None, "it has just been told no"
    other.clock.now_s += 0.2
    assert await other.shared.take("risk/2")
    one.shared.give_back("risk/2", token)
    await asyncio.wait(list(one.shared._giving.values()))
    assert await client.exists(f"{PROBE}risk/2"), "nobody gives back what is another's"


async def test_hold_at_one_gateway_holds_at_all_and_any_may_let_go(world: World, client: Redis) -> None:
    one, other = await world.gateway("a"), await world.gateway("b")
    other.shared._wall = lambda: world.wall_s + 5
    one.breakers.hold("tool:refund", "operator")
    await until(lambda: ("tool:refund", "operator") in other.breakers.holds())
    assert await other.shared.sync()
    assert b'"by":"a"' in await client.hget(HOLDS, "operator tool:refund"), "who takes over says nothing of his own"
    assert await_kinds(other) == [("breaker.hold", "tool:refund", "operator", "a")]
    assert one.recorded == [], "its own console has recorded it"
    other.breakers.release("tool:refund", "operator")
    await until(lambda: not one.breakers.holds())
    assert await_kinds(one) == [("breaker.release", "tool:refund", "operator", "b")]


def await_kinds(gateway: Gateway) -> list[tuple[str, ...]]:
    changes = [body["change"] for kind, body in gateway.recorded if kind == "breaker.shared"]
    return [(each["what"], each["breaker"], each["word"], each["gateway"]) for each in changes]


async def test_words_of_several_holders_are_kept_apart(world: World) -> None:
    one, other = await world.gateway("a"), await world.gateway("b")
    one.breakers.hold("risk/2", "drift")
    other.breakers.hold("risk/2", "operator")
    for gateway in (one, other):
        await until(lambda gateway=gateway: set(gateway.breakers.of("risk", 2).holds) == {"drift", "operator"})
    one.breakers.release("risk/2", "operator")
    for gateway in (one, other):
        await until(lambda gateway=gateway: gateway.breakers.of("risk", 2).holds == ("drift",))
    assert (one.state, other.state) == (State.HELD, State.HELD)


async def test_newcomer_learns_what_is_held(world: World) -> None:
    one = await world.gateway("a")
    one.breakers.hold("risk/2", "operator")
    await one.shared.sync()
    newcomer = await world.gateway("c", runs=False)
    assert await newcomer.shared.sync()
    assert newcomer.state is State.HELD


async def test_redis_that_lost_its_memory_lets_nothing_go(world: World, client: Redis) -> None:
    one, other = await world.gateway("a"), await world.gateway("b")
    one.breakers.hold("risk/2", "operator")
    await until(lambda: other.state is State.HELD)
    await client.flushall()
    await until_known(client)
    assert (one.state, other.state) == (State.HELD, State.HELD)


async def until_known(client: Redis) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await client.hlen(HOLDS):  # noqa: ASYNC110  Redis has no event to give
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("restored_s", "held"), [(-60.0, False), (60.0, True)])
async def test_restart_weighs_its_own_record_against_what_the_others_said(
    world: World, restored_s: float, held: bool
) -> None:
    """A release while we were down counts if it is newer than the hold in our ledger."""
    other = await world.gateway("b", runs=False)
    other.breakers.hold("risk/2", "operator")
    other.breakers.release("risk/2", "operator")
    await other.shared.sync()
    at_ms = round((world.wall_s + restored_s) * 1000)
    back = await world.gateway("a", {("risk/2", "operator"): (True, at_ms)}, held=[("risk/2", "operator")], runs=False)
    assert await back.shared.sync()
    assert (back.state is State.HELD) is held
    await other.shared.sync()
    assert (other.state is State.HELD) is held


async def test_release_that_redis_never_heard_of_is_told_after_the_restart(world: World) -> None:
    other = await world.gateway("b", runs=False)
    other.breakers.hold("risk/2", "operator")
    await other.shared.sync()
    at_ms = round((world.wall_s + 60) * 1000)
    back = await world.gateway("a", {("risk/2", "operator"): (False, at_ms)}, runs=False)
    await back.shared.sync()
    await other.shared.sync()
    assert (back.breakers.holds(), other.breakers.holds()) == ([], [])


async def test_release_that_cannot_be_recorded_here_is_not_done_here(world: World) -> None:
    broken = [True]

    async def append(kind: str, body: Mapping[str, Any]) -> None:
        if broken[0]:
            raise OSError("disk full")

    one, other = await world.gateway("a", runs=False), await world.gateway("b", runs=False, append=append)
    one.breakers.hold("risk/2", "operator")
    await one.shared.sync()
    await other.shared.sync()
    assert other.state is State.HELD, "a hold counts all the same"
    one.breakers.release("risk/2", "operator")
    await one.shared.sync()
    await other.shared.sync()
    assert other.state is State.HELD
    broken[0] = False
    await other.shared.sync()
    assert other.state is State.HALF_OPEN


async def test_transitions_are_published_and_change_nothing_but_when_to_probe(world: World, client: Redis) -> None:
    one, other = await world.gateway("a"), await world.gateway("b")
    told: list[Transition] = []
    other.breakers.listen(told.append)
    await until_heard(client, 2)
    one.trip()
    other.trip()
    one.clock.now_s += 5.0
    world.backend.answer.set()
    while one.state is not State.CLOSED:
        assert await one.call() == "answer"
    await until(lambda: other.breakers.of("risk", 2).retry_after_s(other.clock.now_s) == 0.0)
    assert [move.after for move in told] == [State.OPEN], "another's word closes nothing"
    assert await other.call() == "answer"
    assert other.state is State.HALF_OPEN


async def until_heard(client: Redis, listeners: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while dict(await client.pubsub_numsub(EVENTS)).get(EVENTS.encode(), 0) < listeners:  # noqa: ASYNC110  Redis has no event to give
            await asyncio.sleep(0.005)


async def test_frozen_redis_leaves_each_gateway_to_itself_and_it_says_so(world: World) -> None:
    one, other = await cooled(world)
    for gateway in (one, other):
        gateway.shared._deadline_s = 0.05
    world.backend.answer.set()
    world.redis.freeze()
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert [await one.call(), await other.call()] == ["answer", "answer"]
            assert not await one.shared.sync()
    finally:
        world.redis.thaw()
    assert (one.reached[-1], one.shared.is_reached) == (False, False)
    one.breakers.hold("risk/2", "operator")
    one.shared._deadline_s = other.shared._deadline_s = 5.0
    assert await one.shared.sync()
    assert one.reached[-1] is True
    assert await other.shared.sync()
    assert other.state is State.HELD, "what was said meanwhile is said later"


async def test_after_a_failure_probes_do_not_wait_for_redis_one_by_one(world: World) -> None:
    one, _ = await cooled(world)
    one.shared._deadline_s = 0.05
    world.redis.freeze()
    try:
        tokens = [await one.shared.take("risk/2") for _ in range(50)]
    finally:
        world.redis.thaw()
    assert tokens == [""] * 50
    assert one.reached.count(False) <= 3


@pytest.mark.parametrize(
    ("field_", "value"),
    [
        ("operator risk/2", "no json"),
        ("operator risk/2", b'{"held": true, "by": "\xff", "at_ms": 1}'),
        ("operator risk/2", '{"held": "yes", "by": "x", "at_ms": 1}'),
        ("Operator! risk/2", '{"held": true, "by": "x", "at_ms": 1}'),
        ("operator ", '{"held": true, "by": "x", "at_ms": 1}'),
        ("operator a\nb", '{"held": true, "by": "x", "at_ms": 1}'),
    ],
)
async def test_nonsense_in_redis_is_passed_over(world: World, client: Redis, field_: str, value: str | bytes) -> None:
    await client.hset(HOLDS, field_, value)
    await client.hset(HOLDS, "operator risk/3", '{"held": true, "by": "x", "at_ms": 1}')
    one = await world.gateway("a", runs=False)
    assert await one.shared.sync()
    one.shared._hear(value.encode() if isinstance(value, str) else value)
    assert one.breakers.holds() == [("risk/3", "operator")]


async def test_two_who_speak_at_the_same_moment_end_up_with_the_same(world: World) -> None:
    gateways = [await world.gateway(name, runs=False) for name in "abc"]
    gateways[0].breakers.hold("risk/2", "operator")
    for gateway in gateways:
        await gateway.shared.sync()
    gateways[0].breakers.release("risk/2", "operator")
    gateways[1].breakers.release("risk/2", "operator")
    gateways[1].breakers.hold("risk/2", "operator")
    for _ in range(3):
        await asyncio.gather(*(gateway.shared.sync() for gateway in gateways))
    assert len({tuple(gateway.breakers.holds()) for gateway in gateways}) == 1
    assert gateways[2].state is State.HELD, "the later of the two"
