"""What the response cache, a price and a budget add to a call: ``python -m benchmarks.saved_answers [--redis PORT]``.

CPU microseconds of this process for each, best of several rounds; with Redis, wall time, for it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from msgspec.structs import replace

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.cost import Account, Budgets, CostSettings, Limit, MemoryBudgets
from controlplane.cost.budgets import window_of
from controlplane.gateway.budget import KeepBudgets
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.pricing import PriceList
from controlplane.policy import Catalogue, ModelEntry
from controlplane.policy.obligations import parse_obligation, strictest
from controlplane.response_cache import CachedBackend, MemoryStore, Parts, ResponseCacheSettings
from inference.backend import Backend, BackendReply, BackendRequest, Reuse, Usage

ROUNDS, CALLS = 5, 1_000
MESSAGES = [{"role": "user", "content": "What is the weather like in Oslo in November? " * 20}]
CHAT = {"model": "tiny", "temperature": 0, "max_tokens": 64, "messages": MESSAGES}
ASKED = BackendRequest(
    call_id="1", target="tiny", operation="chat", body=json.dumps(CHAT).encode(), tenant="acme", scope="acme:r1"
)
ANSWER = json.dumps({"choices": [{"message": {"content": "Dark. " * 100}}]}).encode()
ENTRY = ModelEntry.model_validate(
    {"name": "tiny", "task": "chat", "backend": "b", "sensitivity": 1, "side_effect": "read", "cost_tier": "low"}
    | {"owner": "acme", "price": {"input_per_million_usd": 0.1, "output_per_million_usd": 0.4}}
)


class Model:
    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        async with aclosing(self._answer()) as chunks:
            yield BackendReply(200, (("content-type", "application/json"),), chunks, request.target)

    async def _answer(self) -> AsyncGenerator[bytes]:
        yield ANSWER


def cached(**more: Any) -> CachedBackend:
    settings = ResponseCacheSettings()
    memory = MemoryStore(settings.memory_bytes, settings.memory_entries)
    parts = Parts(settings, b"s" * 32, memory, lambda _request: "vllm", time.time, time.monotonic, **more)
    return CachedBackend(Model(), parts)


async def ask(backend: Backend, request: BackendRequest) -> None:
    async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
        async for _ in chunks:
            pass


async def best_us(work: Callable[[int], Awaitable[Any]], clock: Callable[[], float] = time.process_time) -> float:
    """Of one piece of ``work``, which is given its number."""
    rounds = []
    for turn in range(ROUNDS):
        started_s = clock()
        for number in range(CALLS):
            await work(turn * CALLS + number)
        rounds.append((clock() - started_s) / CALLS * 1e6)
    return min(rounds)


async def cache() -> None:
    request, backend = replace(ASKED, reuse=Reuse(600)), cached()
    alone = await best_us(lambda _: ask(Model(), ASKED))
    print(f"model alone                         {alone:8.1f} us")
    print(f"through, without leave              {await best_us(lambda _: ask(backend, ASKED)) - alone:+8.1f} us")
    await ask(backend, request)
    print(f"hit (1 KB question)                 {await best_us(lambda _: ask(backend, request)):8.1f} us")
    others = await best_us(
        lambda number: ask(backend, replace(request, body=ASKED.body[:-1] + b',"seed":%d}' % number))
    )
    print(f"miss, saved                         {others - alone:+8.1f} us")
    tensor = replace(request, operation="Predict", body=b"x" * 602_000)
    await ask(backend, tensor)
    print(f"hit (602 KB Predict)                {await best_us(lambda _: ask(backend, tensor)):8.1f} us")


async def money() -> None:
    catalogue = Catalogue(models={"tiny": ENTRY})
    prices = PriceList(lambda: catalogue, CostSettings())
    keeper = KeepBudgets(Budgets(MemoryBudgets(1000), 0.8), lambda _principal: "blue", prices.bound, time.time)
    duties = [
        parse_obligation("budget", {"key": key, "per": "day", "max_usd": 1e6}) for key in ("subject", "team", "tenant")
    ]
    allowed = Decision(effect=Effect.ALLOW, reason="granted", revision="r", obligations=strictest(duties))
    who, call = Principal(subject="agent:a", tenant="acme"), Call(
        id="c", door="d", action="infer", resource="/model/tiny", operation="chat", body=ASKED.body
    )  # fmt: skip
    outcome = Outcome(started_s=0.0, status="ok", http_status=200, served_by="tiny", usage=Usage(200, 60), ended_s=1.0)
    admission = Admission(call, who, allowed, Receipt("e", 0, ""), 0.0, 0.0)

    async def priced(_: int) -> None:
        prices(admission, outcome)

    async def held(_: int) -> None:
        decision = await keeper.hold(allowed, who, call)
        outcome.cost = {"micro_usd": 44}
        keeper.observe(replace(admission, decision=decision), outcome, recorded=True)

    print(f"price of a call                     {await best_us(priced):8.1f} us")
    print(f"three budgets held and settled      {await best_us(held):8.1f} us")


async def redis(port: int) -> None:
    from controlplane.cost.redis_budgets import RedisBudgets  # noqa: PLC0415  an extra
    from controlplane.response_cache.redis_store import RedisStore  # noqa: PLC0415  as above
    from controlplane.shared_state import RedisSettings  # noqa: PLC0415  as above
    from controlplane.shared_state.connection import connect  # noqa: PLC0415  as above

    client = connect(RedisSettings(url=f"redis://127.0.0.1:{port}"))
    shared = RedisStore(client, b"s" * 32, 1.0, 0.0, time.monotonic)
    backend = cached(shared=shared)
    request = replace(ASKED, reuse=Reuse(600))
    await ask(backend, request)

    async def from_redis(_: int) -> None:
        backend.parts.memory.__init__(10**8, 1000)  # type: ignore[misc]  # forgets, so that Redis is asked
        await ask(backend, request)

    budgets = RedisBudgets(client, 1.0, 0.2)
    await budgets.raise_to({})
    since_s = window_of("day", time.time())[0]
    limits = [Limit(Account(key, "acme", "", "day", "", since_s), 10**12) for key in ("subject", "team", "tenant")]
    print(f"hit from Redis, wall                {await best_us(from_redis, time.perf_counter):8.1f} us")
    print(
        f"three budgets held in Redis, wall   "
        f"{await best_us(lambda _: budgets.hold(limits, 1, 0.0), time.perf_counter):8.1f} us"
    )
    await client.aclose()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", type=int, default=0, help="Port of a Redis on this machine; 0: without.")
    port = parser.parse_args().redis
    await cache()
    await money()
    if port:
        await redis(port)


if __name__ == "__main__":
    asyncio.run(main())
