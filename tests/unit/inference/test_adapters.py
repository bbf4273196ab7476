"""Only listed adapters are loaded, only where that was decided, and nobody is asked for what it does not have."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from inference.adapters import AdapterRefused, AdapterRegistry, names_in
from inference.launch import Lora

LORA = Lora(adapters={"tiny-a": "/adapters/a", "tiny-b": "/adapters/b"}, runtime=True)


@dataclass
class Replica:
    """A server with vLLM's three routes and a memory."""

    url: str = ""
    adapters: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False
    nonsense: bytes = b""  # said instead of what it serves

    async def models(self, request: web.Request) -> web.Response:
        if self.nonsense:
            return web.Response(body=self.nonsense, content_type="application/json")
        base = {"id": "tiny", "parent": None}
        return web.json_response({"data": [base, *({"id": name, "parent": "tiny"} for name in sorted(self.adapters))]})

    async def load(self, request: web.Request) -> web.Response:
        wish = await request.json()
        self.asked.append((wish["lora_name"], wish["lora_path"]))
        if self.refuses:
            return web.Response(body=b"no such path: \xe9t\xe9", status=404)
        self.adapters.add(wish["lora_name"])
        return web.Response(text="ok")

    async def unload(self, request: web.Request) -> web.Response:
        self.adapters.discard((await request.json())["lora_name"])
        return web.Response(text="ok")


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    app = web.Application()
    app.router.add_get("/v1/models", replica.models)
    app.router.add_post("/v1/load_lora_adapter", replica.load)
    app.router.add_post("/v1/unload_lora_adapter", replica.unload)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    replica.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield replica
    await runner.cleanup()


async def test_a_listed_adapter_is_loaded_from_its_listed_path_once(replica: Replica) -> None:
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    assert not registry.serves("one", "tiny-a")
    await registry.load("tiny-a")
    await registry.load("tiny-a")
    assert replica.asked == [("tiny-a", "/adapters/a")]
    assert registry.serves("one", "tiny-a")
    assert registry.where() == {"tiny-a": ["one"], "tiny-b": []}


async def test_an_unlisted_adapter_is_never_asked_for(replica: Replica) -> None:
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    with pytest.raises(AdapterRefused) as refused:
        await registry.load("../../etc")
    assert (refused.value.reason, replica.asked) == ("not_listed", [])


async def test_a_server_that_takes_adapters_only_at_start_is_not_asked(replica: Replica) -> None:
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA.model_copy(update={"runtime": False}))
    await registry.refresh()
    for change in (registry.load, registry.unload):
        with pytest.raises(AdapterRefused) as refused:
            await change("tiny-a")
        assert refused.value.reason == "not_at_runtime"
    assert replica.asked == []


async def test_a_replica_that_refuses_does_not_serve_it(replica: Replica) -> None:
    replica.refuses = True
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    with pytest.raises(AdapterRefused, match="no such path") as refused:
        await registry.load("tiny-a")
    assert refused.value.reason == "load_failed"
    assert not registry.serves("one", "tiny-a")


async def test_what_a_silent_replica_had_is_forgotten(replica: Replica) -> None:
    replica.adapters = {"tiny-a"}
    registry = AdapterRegistry({"one": replica.url, "gone": "http://127.0.0.1:9/v1"}, lambda: LORA)
    await registry.refresh()
    assert registry.serves("one", "tiny-a")
    assert not registry.serves("gone", "tiny-a")
    assert registry.serves("gone", "tiny")  # the base is the pool's affair


@pytest.mark.parametrize("nonsense", [b"[" * 100_000, b"\xff", b"{}" + b" " * 5_000_000])
async def test_what_a_replica_that_talks_nonsense_has_is_not_known(replica: Replica, nonsense: bytes) -> None:
    replica.adapters, replica.nonsense = {"tiny-a"}, nonsense
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    assert not registry.serves("one", "tiny-a")


async def test_unloading_takes_it_from_those_who_have_it(replica: Replica) -> None:
    replica.adapters = {"tiny-a", "tiny-b"}
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    await registry.unload("tiny-a")
    assert replica.adapters == {"tiny-b"}
    assert not registry.serves("one", "tiny-a")


async def test_an_adapter_that_somebody_else_loaded_is_told(replica: Replica) -> None:
    replica.adapters = {"tiny-a", "stranger"}
    registry = AdapterRegistry({"one": replica.url}, lambda: LORA)
    await registry.refresh()
    assert registry.unlisted() == {"one": ["stranger"]}


@pytest.mark.parametrize("said", ["null", "[]", '{"data": 3}', '{"data": [3, {"id": 4}, {}]}'])
def test_nonsense_from_a_server_means_that_it_serves_nothing(said: str) -> None:
    assert not names_in(json.loads(said)).adapters
