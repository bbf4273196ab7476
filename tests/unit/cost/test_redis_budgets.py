"""What is owed to Redis while several tell it at once: nothing is lost, and nothing is told twice as another."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self

import pytest

from controlplane.cost import Account

redis_budgets = pytest.importorskip("controlplane.cost.redis_budgets", reason="the package redis is not installed")

MINE = Account("subject", "acme", "agent:a", "day", "", 0)


class FakeRedis:
    """Remembers what it was told under which name, and answers when the test lets it: in order, or not at all."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.at_once = 0

    def register_script(self, _text: str) -> Any:
        async def script(keys: list[str], args: list[int], client: FakePipe) -> None:
            client.told.append((keys[-1], args[0]))

        return script

    def pipeline(self, *, transaction: bool) -> FakePipe:
        assert not transaction
        return FakePipe(self)


class FakePipe:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self.told: list[tuple[str, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def execute(self) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._redis.waiting.append(answer)
        await answer
        self._redis.at_once = max(self._redis.at_once, len(self.told))
        for name, micro_usd in self.told:
            self._redis.told.setdefault(name, micro_usd)


async def begun(redis: FakeRedis, budgets: Any) -> asyncio.Task[bool]:
    before, task = len(redis.waiting), asyncio.create_task(budgets.settle())
    while len(redis.waiting) == before and not task.done():  # noqa: ASYNC110  a few turns of the loop
        await asyncio.sleep(0)
    return task


async def test_who_is_late_with_one_batch_does_not_forget_the_next() -> None:
    redis = FakeRedis()
    budgets = redis_budgets.RedisBudgets(redis, 60.0, 0.2)
    budgets.add([MINE], -10)
    first, same = await begun(redis, budgets), await begun(redis, budgets)
    redis.waiting.popleft().set_result(None)
    assert await first
    budgets.add([MINE], -5)
    following = await begun(redis, budgets)
    redis.waiting.popleft().set_result(None)
    while len(redis.waiting) < 2 and not same.done():  # noqa: ASYNC110  who was late tells the next as well
        await asyncio.sleep(0)
    while redis.waiting:
        redis.waiting.popleft().set_exception(OSError("Redis is gone"))
    assert (await following, await same) == (False, False)
    again = await begun(redis, budgets)
    assert redis.waiting, "what Redis did not take is told again"
    redis.waiting.popleft().set_result(None)
    assert await again
    assert sorted(redis.told.values()) == [-10, -5]


async def test_what_was_due_before_and_what_is_due_now_are_both_told() -> None:
    """At the end there is no other time to tell it, and before a refusal it may be just what lacks."""
    redis = FakeRedis()
    budgets = redis_budgets.RedisBudgets(redis, 60.0, 0.2)
    budgets.add([MINE], -10)
    failing = await begun(redis, budgets)
    redis.waiting.popleft().set_exception(OSError("Redis is gone"))
    assert not await failing
    budgets.add([MINE], -5)
    last = await begun(redis, budgets)
    while not last.done():
        await asyncio.sleep(0)
        while redis.waiting:
            redis.waiting.popleft().set_result(None)
    assert await last
    assert sorted(redis.told.values()) == [-10, -5]


async def test_sums_of_many_accounts_come_back_some_at_a_time() -> None:
    """All of them at once would take longer than one answer may, and every call would be refused for ever."""
    redis = FakeRedis()
    budgets = redis_budgets.RedisBudgets(redis, 60.0, 0.2)
    spent = {Account("subject", "acme", f"agent:{number}", "day", "", 0): number for number in range(2500)}
    raising = asyncio.create_task(budgets.raise_to(spent))
    while not raising.done():
        await asyncio.sleep(0)
        while redis.waiting:
            redis.waiting.popleft().set_result(None)
    await raising
    assert sorted(redis.told.values()) == sorted(spent.values())
    assert redis.at_once == redis_budgets.RAISED_AT_ONCE
