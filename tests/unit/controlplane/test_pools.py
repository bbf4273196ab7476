"""Servers of one backend: who is asked, who is left alone, which adapters they have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlplane.adapter_control import ListedAdapters, by_backend
from controlplane.console.ports import ChangeFailed, ChangeRefused
from controlplane.policy import Catalogue
from controlplane.pools import Pools
from controlplane.settings import OpenAiBackend
from inference.backend import BackendRequest
from inference.launch import Lora
from tests.unit.controlplane.rig import entry

LORA = Lora(adapters={"tiny-a": "/adapters/a"}, runtime=True)


@dataclass
class Server:
    """Answers chats with its own name, and knows adapters as vLLM does."""

    url: str = ""
    models: Counter[str] = field(default_factory=Counter)
    adapters: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    async def chat(self, request: web.Request) -> web.Response:
        self.models[(await request.json())["model"]] += 1
        return web.json_response({"choices": [], "usage": {}})

    async def listed(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("authorization", ""))
        return web.json_response({"data": [{"id": name, "parent": "tiny"} for name in self.adapters]})

    async def load(self, request: web.Request) -> web.Response:
        wish = await request.json()
        if wish["lora_path"] == "/broken":
            return web.Response(status=400, text="cannot be read")
        self.adapters.add(wish["lora_name"])
        return web.Response()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/v1/models", server.listed)
    app.router.add_post("/v1/load_lora_adapter", server.load)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    async with serving() as first, serving() as second:
        yield [first, second]


def backend(servers: list[Server], **more: Any) -> OpenAiBackend:
    first, *others = [server.url for server in servers]
    said = {"kind": "openai", "dialect": "openai", "base_url": first, "replicas": others, **more}
    return OpenAiBackend.model_validate(said)


async def ask(pool: Any, target: str = "tiny", body_model: str = "tiny") -> None:
    body = json.dumps({"model": body_model, "messages": []}).encode()
    async with pool.send(BackendRequest(call_id="c", target=target, operation="chat", body=body)) as reply:
        assert reply.status == 200
        async with aclosing(reply.chunks) as chunks:
            assert [chunk async for chunk in chunks]


async def test_calls_are_spread_over_all_servers_and_an_isolated_one_is_left_alone(servers: list[Server]) -> None:
    pools = Pools(lambda _: Lora())
    pool = pools.of_openai("vllm", backend(servers))
    for _ in range(10):
        await ask(pool)
    assert all(server.models["tiny"] for server in servers)
    names = [view.name for view in pools.views(lambda _: ["tiny"])]
    pools.isolate(names[0])
    before = servers[0].models["tiny"]
    for _ in range(10):
        await ask(pool)
    assert servers[0].models["tiny"] == before
    pools.isolate(names[1])
    await ask(pool)  # when all are isolated, somebody still has to answer
    pools.restore(names[0])
    pools.restore(names[1])
    for _ in range(10):
        await ask(pool)
    assert servers[0].models["tiny"] > before
    await pools.aclose()


async def test_an_adapter_is_asked_for_only_where_it_is_and_by_its_own_name(servers: list[Server]) -> None:
    pools = Pools(lambda _: LORA)
    pool = pools.of_openai("vllm", backend(servers, served_model="base"))
    servers[1].adapters.add("tiny-a")
    await pools.adapters.registries["vllm"].refresh()
    for _ in range(6):
        await ask(pool, "tiny-a", "tiny-a")
        await ask(pool)
    assert (servers[0].models["tiny-a"], servers[1].models["tiny-a"]) == (0, 6)
    assert servers[0].models["base"] + servers[1].models["base"] == 6  # what is no adapter has the server's own name
    await pools.aclose()


async def test_a_lighter_model_is_asked_by_its_name_and_not_by_the_callers(servers: list[Server]) -> None:
    pools = Pools(lambda _: Lora())
    pool = pools.of_openai("vllm", backend(servers[:1]))
    await ask(pool, target="small", body_model="large")
    assert servers[0].models == {"small": 1}
    await pools.aclose()


async def test_operators_load_what_is_listed_and_hear_why_not(servers: list[Server], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    lora = LORA.model_copy(update={"adapters": {"tiny-a": "/adapters/a", "bad": "/broken"}})
    pools = Pools(lambda _: lora)
    pools.of_openai("vllm", backend(servers, api_key_file=tmp_path / "key"))
    desk = pools.adapters
    await desk.registries["vllm"].refresh()
    await desk.load("tiny-a")
    assert [len(replicas) for replicas in desk.where().values()] == [0, 2]
    assert servers[0].keys == {"Bearer secret"}
    with pytest.raises(ChangeRefused) as refused:
        await desk.load("stranger")
    assert refused.value.reason == "not_listed"
    with pytest.raises(ChangeFailed) as failed:
        await desk.load("bad")
    assert failed.value.reason == "load_failed"
    await pools.aclose()


def catalogue(*launches: dict[str, Any] | None) -> Catalogue:
    entries = {}
    for number, launch in enumerate(launches):
        name = f"m{number}"
        said = entry(name, "vllm").model_dump() | {"card": {"launch": launch} if launch else {}}
        entries[name] = entry(name).model_validate(said)
    return Catalogue(models=entries)


def test_adapters_of_all_models_of_a_backend_are_its_adapters() -> None:
    one = {"model": "/m", "lora": {"adapters": {"a": "/a"}, "runtime": True}}
    two = {"model": "/m", "lora": {"adapters": {"b": "/b"}, "runtime": False}}
    found = by_backend(catalogue(one, two, None))
    assert (found["vllm"].adapters, found["vllm"].runtime) == ({"a": "/a", "b": "/b"}, False)


def test_a_reload_of_policy_changes_what_is_listed() -> None:
    now = [catalogue(None)]
    listed = ListedAdapters(lambda: now[0])
    assert not listed.of("vllm").adapters
    now[0] = catalogue({"model": "/m", "lora": {"adapters": {"a": "/a"}}})
    assert set(listed.of("vllm").adapters) == {"a"}
