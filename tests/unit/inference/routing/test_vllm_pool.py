"""Servers by address: which are asked, probed and read, on small fakes over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from inference.openai_http.settings import VllmSettings
from inference.routing import RoutingSettings
from inference.routing.vllm import VllmPool
from tests.contracts.fake_openai import KEY, FakeOpenAI, running_fake
from tests.contracts.openai_contract import chat, whole


@asynccontextmanager
async def pool_over(
    tmp_path: Path, fakes: int, *, listed: bool = True, **watch: object
) -> AsyncIterator[tuple[VllmPool, list[FakeOpenAI]]]:
    (tmp_path / "key").write_text(KEY)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running_fake()) for _ in range(fakes)]
        urls = [f"{one.origin}/v1" for one in servers]
        settings = VllmSettings(base_url=urls[0], api_key_file=tmp_path / "key", served_model="tiny")
        names = {f"r{number}": url for number, url in enumerate(urls)} if listed else {}
        pool = VllmPool(settings, names, RoutingSettings.model_validate({"watch": watch}))
        stack.push_async_callback(pool.aclose)
        yield pool, servers


async def test_calls_go_to_every_address_with_the_pools_key(tmp_path: Path) -> None:
    async with pool_over(tmp_path, 2) as (pool, servers):
        for _ in range(4):
            reply, _ = await whole(pool, chat())
            assert reply.status == 200
        assert [len(one.seen) for one in servers] == [2, 2]


async def test_without_replicas_the_one_address_is_a_pool_of_one(tmp_path: Path) -> None:
    async with pool_over(tmp_path, 1, listed=False) as (pool, servers):
        reply, _ = await whole(pool, chat(stream=True))
        assert (reply.status, reply.usage.output_tokens) == (200, 4)
        assert len(servers[0].seen) == 1
        assert [one.name for one in pool.snapshot()] == ["127.0.0.1"]


@pytest.mark.parametrize(("probe", "asked"), [("chat", {"/v1/chat/completions"}), ("none", set())])
async def test_watched_servers_are_asked_for_one_token_unless_tokens_cost_money(
    probe: str, asked: set[str], tmp_path: Path
) -> None:
    async with pool_over(tmp_path, 2, probe=probe, metrics=False) as (pool, servers):
        watching = asyncio.create_task(pool.watch())
        for _ in range(100):
            if watching.done() or all(one.seen for one in servers):
                break
            await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait([watching])
        assert {path for one in servers for path, *_ in one.seen} == asked
