"""Models as OpenAI functions: the list may be asked for without its text."""

from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette

from controlplane.gateway.doors.functions import FunctionsDoor
from controlplane.gateway.edge import routes
from controlplane.gateway.model_tools import ModelTools
from controlplane.policy import Catalogue


class NoSignatures:
    def known(self, model, version=None, label=None):
        return None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_list_and_its_head_are_the_same_call(rig, method: str) -> None:
    tools = ModelTools(lambda: Catalogue({}, {}), list, NoSignatures(), lambda principal, action, resource: True)
    app = Starlette(
        routes=routes([FunctionsDoor(tools)], rig.gateway, lambda problem: "Bearer", lambda door, reason: None)
    )
    headers = {"authorization": "Bearer good"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway", headers=headers) as c:
        reply = await c.request(method, "/v1/functions")
    assert (reply.status_code, [entry[0] for entry in rig.ledger.entries]) == (200, ["intent", "outcome"])
