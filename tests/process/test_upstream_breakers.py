"""Breakers of tools in whole gateways: dead tools, an operator's hold over a restart, and over two gateways."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.settings import Settings
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World, listening, until

RULES = [{"id": f"good.{area}", "on": f"/{area}/**", "do": "*", "effect": "allow"} for area in ("tool", "mcp", "api")]


@dataclass
class Gate:
    plane: ControlPlane
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, str], Any]:
        async with self.http.post(self.url + path, json=body) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.json()

    async def call_tool(self) -> tuple[int, str, str]:
        """Status, reason, and when to come back."""
        status, headers, body = await self.post("/tools/refund", amount=1)
        return status, body.get("reason", ""), headers.get("retry-after", "")

    def state(self, name: str) -> str:
        return next(each.state.value for each in self.plane.fleet.breakers.snapshot() if each.name == name)


def built(folder: Path, upstream: Upstream, *, is_up: bool = True) -> World:
    folder.mkdir(exist_ok=True)
    world = World(folder, upstream, backend_is_up=is_up)
    world.build()
    (folder / "policies/roles/good.yaml").write_text(json.dumps({"role": "good", "rules": RULES}))
    return world


@asynccontextmanager
async def running(world: World, **more: Any) -> AsyncGenerator[Gate]:
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane(Settings.model_validate(world.document() | more)))
        port = await stack.enter_async_context(listening(plane.app))
        headers = {"authorization": f"Bearer {world.tokens['good']}"}
        http = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        yield Gate(plane, f"http://127.0.0.1:{port}", http)


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    async with Upstream() as found:
        yield found


async def test_tool_that_is_gone_is_given_up_after_five_calls_and_shown(upstream: Upstream, tmp_path: Path) -> None:
    async with running(built(tmp_path, upstream, is_up=False), breaker={"open_s": 60.0}) as gate:
        answers = [await gate.call_tool() for _ in range(7)]
        assert {answer[:2] for answer in answers[:5]} == {(503, "unreachable")}
        assert {answer[:2] for answer in answers[5:]} == {(503, "breaker_open")}
        assert 1 <= int(answers[-1][2]) <= 72, "a minute, and a fifth of it by chance"
        assert (gate.state("tool:refund"), gate.state("mcp:clock")) == ("open", "closed")
        async with gate.http.get(f"{gate.url}/api/breakers") as answer:
            shown = {each["name"]: each for each in (await answer.json())["breakers"]}
        assert (shown["tool:refund"]["state"], shown["tool:refund"]["reason"]) == ("open", "connect_failures")
        assert (
            b'controlplane_breaker_state{state="open",upstream="tool:refund"} 1.0'
            in (await gate.plane.metrics.exposition())[0]
        )


async def test_operators_hold_on_a_tool_is_on_record_and_outlives_the_gateway(
    upstream: Upstream, tmp_path: Path
) -> None:
    world = built(tmp_path, upstream)
    async with running(world) as gate:
        assert (await gate.call_tool())[0] == 200
        status, _, _ = await gate.post("/api/breakers/tool:refund/hold", reason="refunds twice")
        assert status == 200
        assert (await gate.call_tool())[:2] == (503, "breaker_held")
    upstream.calls.clear()
    async with running(world) as gate:
        assert (await gate.call_tool())[:2] == (503, "breaker_held")
        assert "/refund" not in upstream.calls
        (record,) = gate.plane.ledger.read(kinds=["console.change"])
        change = record.body["change"]
        assert (change["breaker"], change["by"], change["reason"]) == ("tool:refund", "agent:good", "refunds twice")
        await gate.post("/api/breakers/tool:refund/release", reason="mended")
        assert (await gate.call_tool())[0] == 200
    async with running(world) as gate:
        assert (await gate.call_tool())[0] == 200


@pytest.mark.real("redis")
async def test_hold_at_one_whole_gateway_refuses_at_the_other(upstream: Upstream, tmp_path: Path) -> None:
    redis_server = pytest.importorskip("tests.real.redis_server", reason="redis is not installed")
    with redis_server.running_redis() as redis:
        shared = {"redis": {"url": f"redis://127.0.0.1:{redis.port}"}}
        shared["breaker_sharing"] = {"shared": True, "sync_s": 0.05, "deadline_ms": 5000, "pause_s": 0.05}
        one, other = (built(tmp_path / name, upstream) for name in "ab")
        async with running(one, **shared) as first, running(other, **shared) as second:
            await first.post("/api/breakers/tool:refund/hold", reason="refunds twice")
            await until(lambda: second.state("tool:refund") == "held")
            assert (await second.call_tool())[:2] == (503, "breaker_held")
            await until(lambda: second.plane.ledger.read(kinds=["breaker.shared"]))
            await second.post("/api/breakers/tool:refund/release", reason="mended")
            await until(lambda: first.state("tool:refund") != "held")
            assert (await first.call_tool())[0] == 200


def test_sharing_needs_redis(tmp_path: Path) -> None:
    identity = {"issuer": "urn:i", "audience": "urn:a", "jwks_file": tmp_path / "jwks.json"}
    with pytest.raises(ValueError, match=r"breaker_sharing\.shared need redis"):
        Settings.model_validate({"identity": identity, "breaker_sharing": {"shared": True}})
