"""Budgets in a real Redis: two gateways cannot spend the same money, and trouble never makes a budget larger."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from controlplane.cost import Account, Exhausted, Limit
from controlplane.cost.budgets import BudgetsUnavailable, window_of
from tests.real.redis_server import Redis, RedisServer

pytestmark = pytest.mark.real("redis")

redis_budgets = pytest.importorskip("controlplane.cost.redis_budgets", reason="the package redis is not installed")
RedisBudgets = redis_budgets.RedisBudgets

PATIENCE_S = 60.0  # what Redis may take on a machine that is busy with other things
SINCE, UNTIL = window_of("day", time.time())
MINE = Account("subject", "acme:{eu}", "agent:a", "day", "", SINCE)
TENANTS = Account("tenant", "acme:{eu}", "", "month", "", window_of("month", time.time())[0])


async def kept(client: Redis) -> RedisBudgets:
    budgets = RedisBudgets(client, PATIENCE_S, 0.01)
    await budgets.raise_to({})
    return budgets


async def test_gateways_together_never_spend_more_than_there_is(redis: RedisServer, client: Redis) -> None:
    limits = [Limit(MINE, 1000), Limit(TENANTS, 730)]

    async def spend() -> int:
        async with redis.client() as own:
            budgets = await kept(own)
            answers = [await budgets.hold(limits, 10, time.time()) for _ in range(40)]
        return sum(not isinstance(each, Exhausted) for each in answers)

    granted = sum(await asyncio.gather(*(spend() for _ in range(4))))
    assert granted == 73
    assert await (await kept(client)).hold(limits, 1, time.time()) == Exhausted(limits[1], 730)


async def test_no_room_on_one_account_adds_to_none(client: Redis) -> None:
    budgets = await kept(client)
    assert await budgets.hold([Limit(MINE, 100), Limit(TENANTS, 5)], 10, time.time()) == Exhausted(Limit(TENANTS, 5), 0)
    assert await budgets.hold([Limit(MINE, 100)], 100, time.time()) == [100]


async def test_settled_costs_make_room_again_and_are_gathered(client: Redis) -> None:
    budgets = await kept(client)
    await budgets.hold([Limit(MINE, 100)], 60, time.time())
    budgets.add([MINE], -30)
    budgets.add([MINE], -20)
    assert await budgets.hold([Limit(MINE, 100)], 90, time.time()) == [100], "what is owed is told before refusing"
    assert await budgets.settle()


async def test_a_batch_told_twice_counts_once(client: Redis, redis: RedisServer) -> None:
    """Redis took it, and its answer was lost."""
    budgets = await kept(client)
    await budgets.hold([Limit(MINE, 100)], 60, time.time())
    budgets.add([MINE], -10)
    budgets._batch, budgets._due = ("b1", dict(budgets._due)), {}
    assert await budgets.settle()
    budgets._batch = ("b1", {MINE: -10})
    assert await budgets.settle()
    assert await budgets.hold([Limit(MINE, 100)], 0, time.time()) == [50]


async def test_frozen_redis_refuses_in_time_and_what_is_owed_is_told_later(redis: RedisServer, client: Redis) -> None:
    budgets = await kept(client)
    await budgets.hold([Limit(MINE, 100)], 60, time.time())
    budgets.add([MINE], -60)
    redis.freeze()
    budgets._deadline_s = 0.1
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BudgetsUnavailable, match="budget_unknown"):
                await budgets.hold([Limit(MINE, 100)], 10, time.time())
            assert not await budgets.settle()
    finally:
        redis.thaw()
        budgets._deadline_s = PATIENCE_S
    assert await budgets.settle()
    (spent,) = await budgets.hold([Limit(MINE, 100)], 0, time.time())
    assert spent in (0, 10), "the refused hold may count, the settled cost counts once"


async def test_whoever_hangs_up_while_money_is_held_still_learns_what_is_counted(client: Redis) -> None:
    budgets, told = await kept(client), []

    async def hold() -> None:
        told.append(await budgets.hold([Limit(MINE, 100)], 60, time.time()))
        await asyncio.sleep(0)

    await client.client_pause(60_000, all=False)  # what writes waits until it is told to go on
    leaving = asyncio.create_task(hold())
    async with asyncio.timeout(PATIENCE_S):
        while not (await client.info("clients"))["blocked_clients"]:  # noqa: ASYNC110  Redis has no event to give
            await asyncio.sleep(0.005)
    leaving.cancel()
    await client.client_unpause()
    await asyncio.wait([leaving])
    assert (leaving.cancelled(), told) == (True, [[60]])


async def test_sums_come_back_after_redis_lost_them_and_only_rise(client: Redis) -> None:
    budgets = await kept(client)
    await budgets.raise_to({MINE: 70, TENANTS: 5})
    await budgets.raise_to({MINE: 50})
    assert await budgets.hold([Limit(MINE, 100)], 40, time.time()) == Exhausted(Limit(MINE, 100), 70)


async def test_sums_end_with_their_window(client: Redis) -> None:
    await (await kept(client)).hold([Limit(MINE, 100)], 1, time.time())
    (name,) = await client.keys()
    assert UNTIL - time.time() < await client.ttl(name) <= UNTIL - time.time() + 3601


async def test_names_of_tenants_and_agents_cannot_run_into_each_other(client: Redis) -> None:
    budgets = await kept(client)
    first, second = replace(MINE, tenant="a:b", who="c"), replace(MINE, tenant="a", who="b:c")
    await budgets.hold([Limit(first, 100)], 7, time.time())
    assert await budgets.hold([Limit(second, 100)], 1, time.time()) == [1]


async def test_hang_up_while_redis_is_asked_leaves_the_connection_in_order(client: Redis) -> None:
    budgets = await kept(client)
    for _ in range(20):
        leaving = asyncio.create_task(budgets.hold([Limit(MINE, 1000)], 1, time.time()))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        (spent,) = await budgets.hold([Limit(MINE, 1000)], 0, time.time())
    assert spent <= 20


async def test_nothing_is_held_before_the_ledger_has_said_what_was_spent(client: Redis) -> None:
    budgets = RedisBudgets(client, PATIENCE_S, 0.01)
    with pytest.raises(BudgetsUnavailable):
        await budgets.hold([Limit(MINE, 100)], 1, time.time())
    await budgets.raise_to({MINE: 99})
    assert await budgets.hold([Limit(MINE, 100)], 1, time.time()) == [100]
