"""Budgets in Redis, for several gateways together. Each hold is one Lua script: on every account or on none.

Settled costs are gathered and told soon after, each batch under a name of its own, so that one that may have arrived
can be sent again without counting twice. A hold whose answer did not come is refused and may stay counted: too much is
spent on paper until the window ends, never too little. The accounts of a call belong to one tenant and one hash slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from audit.unhurried import unhurried
from controlplane.cost.budgets import Account, BudgetsUnavailable, Exhausted, Limit

log = logging.getLogger(__name__)

HOLD = """
local amount = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local spent = tonumber(redis.call('GET', key) or '0')
  if amount > 0 and spent + amount > tonumber(ARGV[2 * i]) then return {0, i, spent} end
end
local sums = {1}
for i, key in ipairs(KEYS) do
  sums[i + 1] = redis.call('INCRBY', key, ARGV[1])
  redis.call('EXPIREAT', key, ARGV[2 * i + 1])
end
return sums
"""
SETTLE = """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', 86400) and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('INCRBY', KEYS[1], ARGV[1])
end
"""
RAISE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'EXAT', ARGV[2])
end
"""
GRACE_S = 3600  # a sum outlives its window a little, for calls that began in it
RAISED_AT_ONCE = 1000  # accounts; a hundred thousand take longer than anybody waits for one answer
FAILURES = (RedisError, OSError, TimeoutError)


def name_of(account: Account) -> str:
    tenant, who = quote(account.tenant, safe=""), quote(account.who, safe="")
    return f"controlplane:budget:{{{tenant}}}:{account.key}:{who}:{account.per}:{account.name}:{account.since_s}"


class RedisBudgets:
    """Run ``keep_settling`` beside it. Owns nothing of ``client``."""

    def __init__(self, client: Redis, deadline_s: float, settle_s: float) -> None:
        self._client, self._deadline_s, self._settle_s = client, deadline_s, settle_s
        self._hold: Any = client.register_script(HOLD)
        self._settle: Any = client.register_script(SETTLE)
        self._raise: Any = client.register_script(RAISE)
        self._is_ready = False
        self._due: dict[Account, int] = {}
        self._batch: tuple[str, dict[Account, int]] | None = None

    async def hold(self, limits: Sequence[Limit], micro_usd: int, now_s: float) -> Exhausted | Sequence[int]:  # noqa: ARG002  Redis forgets by itself
        if not self._is_ready:  # what was spent before this start may be known to the ledger alone
            raise BudgetsUnavailable("budget_unknown")
        answer = await self._ask(limits, micro_usd)
        if isinstance(answer, Exhausted) and self._due and await self.settle():  # what we owe may be just what lacks
            return await self._ask(limits, micro_usd)
        return answer

    async def _ask(self, limits: Sequence[Limit], micro_usd: int) -> Exhausted | Sequence[int]:
        arguments: list[int] = [micro_usd]
        for limit in limits:
            arguments += [limit.max_micro_usd, limit.account.until_s + GRACE_S]
        names = [name_of(limit.account) for limit in limits]
        try:
            done, *told = await unhurried(self._held(names, arguments))  # who hangs up now still knows what is counted
        except FAILURES as error:
            log.warning("budgets cannot be asked", extra={"cause": type(error).__name__})
            raise BudgetsUnavailable("budget_unknown") from error
        if done:
            return [int(each) for each in told]
        return Exhausted(limits[int(told[0]) - 1], int(told[1]))

    async def _held(self, names: Sequence[str], arguments: Sequence[int]) -> Sequence[Any]:
        async with asyncio.timeout(self._deadline_s):
            return list(await self._hold(keys=names, args=arguments))

    def add(self, accounts: Sequence[Account], micro_usd: int) -> None:
        if micro_usd:
            for account in accounts:
                self._due[account] = self._due.get(account, 0) + micro_usd

    async def raise_to(self, spent: Mapping[Account, int]) -> None:
        """Needed once before the first hold. Raises ``BudgetsUnavailable``."""
        told = list(spent.items())
        for first in range(0, len(told), RAISED_AT_ONCE):
            try:
                await self._raise_some(told[first : first + RAISED_AT_ONCE])
            except FAILURES as error:
                raise BudgetsUnavailable("budget_unknown") from error
        self._is_ready = True

    async def _raise_some(self, spent: Iterable[tuple[Account, int]]) -> None:
        async with asyncio.timeout(max(1.0, self._deadline_s)), self._client.pipeline(transaction=False) as pipe:
            for account, micro_usd in spent:
                until_s = account.until_s + GRACE_S
                await self._raise(keys=[name_of(account)], args=[micro_usd, until_s], client=pipe)
            await pipe.execute()

    async def keep_settling(self) -> None:
        """Until cancelled; ``settle`` once more when it ends."""
        while True:
            await anyio.sleep(self._settle_s)
            await self.settle()

    async def settle(self) -> bool:
        """Tell all that is due. False when Redis did not take it; it is told again."""
        while self._batch is not None or self._due:
            if not await self._tell():
                return False
        return True

    async def _tell(self) -> bool:
        if self._batch is None:
            self._batch, self._due = (uuid4().hex, self._due), {}
        batch, due = self._batch
        try:
            async with asyncio.timeout(self._deadline_s), self._client.pipeline(transaction=False) as pipe:
                for account, micro_usd in due.items():
                    name = name_of(account)
                    await self._settle(keys=[name, f"{name}:{batch}"], args=[micro_usd], client=pipe)
                await pipe.execute()
        except FAILURES as error:
            log.warning("settled costs could not be told", extra={"cause": type(error).__name__})
            return False
        if self._batch is not None and self._batch[0] == batch:  # who told the same meanwhile may have begun the next
            self._batch = None
        return True
