"""Breakers before tools and MCP servers, through both doors to a real socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from starlette.applications import Starlette

from controlplane.gateway.dispatch import ByKind, ByName
from controlplane.gateway.doors.mcp import McpDispatch, McpDoor, McpDoorSettings
from controlplane.gateway.doors.tools import ToolsDoor
from controlplane.gateway.edge import routes
from controlplane.gateway.gateway import Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.resilience.breaker import State
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import BreakerSettings
from controlplane.tools.exchange import open_session
from controlplane.tools.http_tool import HttpToolBackend
from controlplane.tools.mcp_upstream import McpBackend, remote_endpoints
from controlplane.tools.registry import Registry
from controlplane.upstreams import GuardedUpstreams, UpstreamBreakers
from inference.backend import BackendRequest
from inference.errors import BackendRejected, BackendUnavailable
from tests.unit.gateway.conftest import FixedPolicy, KnownToken, MemoryLedger
from tests.unit.resilience.fakes import FakeBackend, FakeClock

LISTEN = BackendRequest(call_id="1", target="shop", operation="listen", streams=True, http_method="GET")
MESSAGE = BackendRequest(call_id="1", target="shop", operation="message", streams=True)


class Nobody:
    def refused(self, *_: Any) -> None: ...
    def admitted(self, *_: Any) -> None: ...
    def observe(self, *_: Any, recorded: bool) -> None: ...


@dataclass
class World:
    """One tool ``refund`` and one MCP server ``shop`` at one upstream, which answers with ``status``."""

    clock: FakeClock = field(default_factory=lambda: FakeClock(100.0))
    asked: list[str] = field(default_factory=list)
    status: int = 200
    dead: bool = False
    ledger: MemoryLedger = field(default_factory=MemoryLedger)

    def __post_init__(self) -> None:
        self.breakers = Breakers(lambda _: BreakerSettings(), self.clock, jitter=lambda: 0.5)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.dead:
            request.transport.abort()
        return web.json_response({"jsonrpc": "2.0", "id": 7, "result": {}}, status=self.status)

    def state(self, name: str) -> str:
        return next(each.state.value for each in self.breakers.snapshot() if each.name == name)

    async def open(self, stack: AsyncExitStack) -> httpx2.AsyncClient:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        server = TestServer(app)
        await server.start_server()
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(open_session())
        registry = registry_at(str(server.make_url("/")))
        made = makes(registry, self)
        settings = McpDoorSettings()
        mcp = made.servers(McpBackend(session, remote_endpoints(registry.mcp_servers)))
        kinds = {
            "tool": ByName(made.tools(HttpToolBackend(registry.http_tools, session)), 30.0),
            "mcp": McpDispatch(mcp, settings),
        }
        gateway = Gateway(KnownToken(), FixedPolicy(), Obligations({}), self.ledger, ByKind(kinds), Nobody())
        doors = [ToolsDoor(), McpDoor(settings, lambda *_: True)]
        gate = Starlette(routes=routes(doors, gateway, lambda _: "Bearer", lambda *_: None))
        headers = {"authorization": "Bearer good", "accept": "application/json, text/event-stream"}
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(gate), base_url="http://localhost", headers=headers)
        return await stack.enter_async_context(client)


def registry_at(url: str) -> Registry:
    tools = [{"name": "refund", "url": f"{url}refund"}, {"name": "slow", "url": url, "timeout_s": 600}]
    return Registry.model_validate({"http_tools": tools, "mcp_servers": [{"name": "shop", "url": f"{url}mcp"}]})


def makes(registry: Registry, world: World) -> UpstreamBreakers:
    return UpstreamBreakers(
        registry=registry,
        breakers=world.breakers,
        settings=BreakerSettings(),
        now=world.clock,
        tool_s=60.0,
        mcp_s=300.0,
    )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncGenerator[httpx2.AsyncClient]:
    async with AsyncExitStack() as stack:
        yield await world.open(stack)


async def call_tool(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.post("/tools/refund", content=b'{"amount": 1}')


async def call_server(client: httpx2.AsyncClient) -> httpx2.Response:
    params = {"name": "search", "arguments": {}}
    return await client.post("/mcp/shop", json={"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})


async def test_breakers_are_shown_before_the_first_call(world: World, client: httpx2.AsyncClient) -> None:
    shown = [(each.name, each.state) for each in world.breakers.snapshot()]
    assert shown == [("mcp:shop", State.CLOSED), ("tool:refund", State.CLOSED), ("tool:slow", State.CLOSED)]


async def test_failing_tool_is_left_alone_and_its_callers_are_told_when_to_come_back(
    world: World, client: httpx2.AsyncClient
) -> None:
    world.status = 500
    replies = [await call_tool(client) for _ in range(25)]
    assert [reply.status_code for reply in replies] == [500] * 20 + [503] * 5
    refused = replies[-1]
    assert (refused.json()["reason"], refused.headers["retry-after"]) == ("breaker_open", "5")
    assert refused.headers["content-type"] == "application/problem+json"
    assert len(world.asked) == 20, "never asked twice, and not at all once open"
    assert world.ledger.entries[-1] == ("outcome", "error", "breaker_open")
    assert (world.state("tool:refund"), world.state("mcp:shop")) == ("open", "closed")


async def test_healed_tool_is_found_out_by_its_probes(world: World, client: httpx2.AsyncClient) -> None:
    world.status = 500
    for _ in range(20):
        await call_tool(client)
    world.status = 200
    world.clock.now_s += 5.0
    assert [(await call_tool(client)).status_code for _ in range(4)] == [200] * 4
    assert world.state("tool:refund") == "closed"


async def test_dead_server_is_refused_in_the_words_of_its_protocol(world: World, client: httpx2.AsyncClient) -> None:
    world.dead = True
    replies = [await call_server(client) for _ in range(21)]
    refused = replies[-1]
    assert [reply.status_code for reply in replies] == [502] * 20 + [503]
    assert (refused.json()["jsonrpc"], refused.json()["id"]) == ("2.0", 7)
    assert (refused.json()["error"]["data"]["reason"], refused.headers["retry-after"]) == ("breaker_open", "5")
    assert len(world.asked) == 20


@pytest.mark.parametrize("status", [400, 404, 409, 429])
async def test_tools_own_no_is_an_answer(world: World, client: httpx2.AsyncClient, status: int) -> None:
    world.status = status
    replies = {(await call_tool(client)).status_code for _ in range(40)}
    assert (replies, world.state("tool:refund")) == ({status}, "closed")


async def test_operator_holds_a_tool_and_lets_go(world: World, client: httpx2.AsyncClient) -> None:
    assert world.breakers.hold("tool:refund", "operator")
    refused = await call_tool(client)
    assert (refused.status_code, refused.json()["reason"], world.asked) == (503, "breaker_held", [])
    assert (await call_server(client)).status_code == 200
    assert world.breakers.release("tool:refund", "operator")
    assert (await call_tool(client)).status_code == 200


def upstreams(world: World, inner: FakeBackend) -> GuardedUpstreams:
    return makes(registry_at("http://127.0.0.1:1/"), world).servers(inner)


async def test_standing_stream_teaches_nothing_however_long_it_stood(world: World) -> None:
    guarded = upstreams(world, FakeBackend(world.clock, head_s=3600.0))
    for _ in range(40):
        async with guarded.send(LISTEN):
            pass
    assert world.state("mcp:shop") == "closed"


@pytest.mark.parametrize("operation", ["message", "listen"])
async def test_held_server_is_sent_nothing_at_all(world: World, operation: str) -> None:
    inner = FakeBackend(world.clock)
    guarded = upstreams(world, inner)
    world.breakers.hold("mcp:shop", "operator")
    request = BackendRequest(call_id="1", target="shop", operation=operation)
    with pytest.raises(BackendUnavailable) as caught:
        async with guarded.send(request):
            pass
    assert (caught.value.reason, inner.requests) == ("breaker_held", [])


async def test_standing_stream_is_no_probe(world: World) -> None:
    inner = FakeBackend(world.clock, error=BackendUnavailable("unreachable"))
    guarded = upstreams(world, inner)
    for _ in range(5):
        with pytest.raises(BackendUnavailable, match="unreachable"):
            async with guarded.send(MESSAGE):
                pass
    inner.error = None
    world.clock.now_s += 5.0
    with pytest.raises(BackendUnavailable) as caught:
        async with guarded.send(LISTEN):
            pass
    assert caught.value.reason == "breaker_open"
    for _ in range(4):
        async with guarded.send(MESSAGE) as reply:
            await anext(reply.chunks)
    async with guarded.send(LISTEN) as reply:
        assert reply.status == 200


async def test_tool_is_slow_only_when_it_took_half_of_its_own_time(world: World) -> None:
    inner = FakeBackend(world.clock, head_s=29.0)
    tools = makes(registry_at("http://127.0.0.1:1/"), world).tools(inner)
    for slow_s, slow in ((29.0, 0), (30.0, 1)):  # of 600, of which a tool call may have 60
        inner.head_s = slow_s
        async with tools.send(BackendRequest(call_id="1", target="slow", operation="call")) as reply:
            await anext(reply.chunks)
            await anext(reply.chunks, None)
        assert next(each.slow for each in world.breakers.snapshot() if each.name == "tool:slow") == slow


async def test_invented_names_get_no_breaker(world: World) -> None:
    inner = FakeBackend(world.clock, error=BackendRejected("not_found"))
    guarded = upstreams(world, inner)
    with pytest.raises(BackendRejected):
        async with guarded.send(BackendRequest(call_id="1", target="invented", operation="message")):
            pass
    assert [each.name for each in world.breakers.snapshot()] == ["mcp:shop"]


async def test_models_that_callers_invent_never_push_a_tool_out() -> None:
    clock = FakeClock()
    breakers = Breakers(lambda _: BreakerSettings(), clock, max_breakers=2)
    tool = breakers.add("tool:refund", BreakerSettings())
    for version in range(100):
        breakers.of("risk", version)
    assert breakers.of("tool:refund") is tool
    assert len(breakers.snapshot()) == 2
