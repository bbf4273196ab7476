"""A prediction that is late is asked of a second replica, seldom enough to hurt nobody."""

from __future__ import annotations

import asyncio

import anyio

from benchmarks.inference.virtual_time import in_virtual_time
from inference.errors import BackendBroke
from inference.routing import RoutingSettings
from tests.unit.inference.routing.driving import World, ask, world
from tests.unit.inference.routing.fakes import chat, predict

HEDGING = RoutingSettings.model_validate({"hedge": {"ratio": 0.1}})


async def learnt(live: World) -> None:
    """Enough quick predictions to know what late is."""
    for number in range(48):
        for one in live.replicas.values():
            one.answer_s = 0.01 + 0.0001 * (number % 32)
        await ask(live.pool, predict())


def asked(live: World) -> int:
    return sum(len(one.asked) for one in live.replicas.values())


async def late_on_one(live: World) -> tuple[str, str]:
    """Freeze the replica that is asked next; its name and the other's."""
    turn = live.pool._choice._turn + 1
    first = "ab"[turn % 2]
    live[first].freeze()
    return first, "ba"[turn % 2]


@in_virtual_time
async def test_second_replica_answers_for_a_late_one_and_the_loser_is_cancelled() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        late, other = await late_on_one(live)
        answer = await ask(live.pool, predict())
        assert answer.body == other.encode()
        assert answer.took_s < 0.05
        assert live[late].cancelled == 1
        assert [one.under_way for one in live.replicas.values()] == [0, 0]
        assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_nothing_is_hedged_before_it_is_known_what_late_is() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        for one in live.replicas.values():
            one.answer_s = 1.0
        await ask(live.pool, predict())
        assert asked(live) == 1


@in_virtual_time
async def test_hedges_are_a_share_of_calls_however_slow_everything_is() -> None:
    async with world("a", "b", "c", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        before = asked(live)
        for one in live.replicas.values():
            one.answer_s = 0.2
        for _ in range(10):
            calls = len(await live.traffic(1.0, every_s=0.05, request=predict()))
            extra = asked(live) - before - calls
            before += calls + extra
            assert extra <= 4 + 0.1 * calls + 1
        assert 0 < extra <= 0.1 * calls + 1


@in_virtual_time
async def test_hedge_answers_for_a_first_that_fails_meanwhile() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        late, other = await late_on_one(live)
        live[other].answer_s = 1.0
        asking = asyncio.create_task(ask(live.pool, predict()))
        await asyncio.sleep(0.5)
        live[late].error = BackendBroke("upstream_500")
        live[late].thaw()
        answer = await asking
        assert (answer.body, answer.error) == (other.encode(), None)


@in_virtual_time
async def test_first_answers_for_a_hedge_that_fails() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        late, other = await late_on_one(live)
        live[other].error = BackendBroke("upstream_500")
        asking = asyncio.create_task(ask(live.pool, predict()))
        await asyncio.sleep(0.5)
        live[late].thaw()
        assert (await asking).body == late.encode()


@in_virtual_time
async def test_caller_who_leaves_takes_both_with_him() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        for one in live.replicas.values():
            one.freeze()
        asking = asyncio.create_task(ask(live.pool, predict()))
        await asyncio.sleep(0.5)
        assert sum(one.under_way for one in live.replicas.values()) == 2
        asking.cancel()
        await asyncio.wait([asking])
        assert sum(one.under_way for one in live.replicas.values()) == 0
        assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_scope_that_is_cancelled_takes_both_with_it() -> None:
    """As at a hang-up: every wait inside the scope is cancelled anew, the one for the loser too."""
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        for one in live.replicas.values():
            one.freeze()
        with anyio.move_on_after(0.5) as scope:
            await ask(live.pool, predict())
        assert scope.cancelled_caught
        await asyncio.sleep(0.01)
        assert sum(one.under_way for one in live.replicas.values()) == 0
        assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_a_chat_is_never_hedged() -> None:
    async with world("a", "b", watched=False, settings=HEDGING, answer_s=0.01) as live:
        await learnt(live)
        before = asked(live)
        for one in live.replicas.values():
            one.answer_s = 5.0
        await ask(live.pool, chat())
        assert asked(live) == before + 1
