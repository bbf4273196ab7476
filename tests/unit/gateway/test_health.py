"""What machines ask without a token: does it live, is it ready, where are tokens to be had."""

from __future__ import annotations

import httpx2
import pytest
from starlette.routing import Router

from controlplane.gateway import health


@pytest.fixture
def faults() -> dict[str, str]:
    return {}


@pytest.fixture
def client(faults: dict[str, str]) -> httpx2.AsyncClient:
    app = Router(health.routes(lambda: faults, lambda resource: {"resource": resource}))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")


async def test_it_lives_even_while_it_is_not_ready(client: httpx2.AsyncClient, faults: dict[str, str]) -> None:
    faults["ledger"] = "disk_full"
    assert (await client.get("/livez")).status_code == 200


async def test_it_is_ready_when_nothing_is_wrong(client: httpx2.AsyncClient, faults: dict[str, str]) -> None:
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()) == (200, {"ready": True, "faults": {}})
    faults |= {"policy": "no_policy", "ledger": "stalled"}
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"ready": False, "faults": faults})


async def test_metadata_of_the_gateway_and_of_a_resource_below_it(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/.well-known/oauth-protected-resource")).json() == {"resource": ""}
    assert (await client.get("/.well-known/oauth-protected-resource/mcp/time")).json() == {"resource": "mcp/time"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/.well-known/oauth-protected-resource"])
async def test_nothing_can_be_written(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.post(path)).status_code == 405
