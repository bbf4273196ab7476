"""HTTP tools through the door: the JSON object is the arguments, refusals are problem documents."""

from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette

from controlplane.gateway.doors.tools import ToolsDoor
from controlplane.gateway.edge import routes
from inference.errors import BackendRejected


def client_of(rig) -> httpx2.AsyncClient:
    app = Starlette(routes=routes([ToolsDoor()], rig.gateway, lambda problem: "Bearer", lambda door, reason: None))
    headers = {"authorization": "Bearer good"}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway", headers=headers)


async def test_policy_decides_on_the_body_and_the_reply_passes(rig) -> None:
    rig.backend.status, rig.backend.headers = 201, (("content-type", "text/csv"),)
    async with client_of(rig) as client:
        reply = await client.post("/tools/refund", content=b'{"amount": 1}', headers={"cookie": "a=b", "accept": "*/*"})
    call = rig.backend.calls[0].call
    assert (call.action, call.resource, call.arguments, call.body) == (
        "call",
        "/tool/refund",
        {"amount": 1},
        b'{"amount": 1}',
    )
    assert dict(call.headers) == {"accept": "*/*"}
    assert (reply.status_code, reply.headers["content-type"], reply.content) == (201, "text/csv", b"abc")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "invalid_body"),
        (b"{", "parse_error"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"amount":1,"Amount":5000}', "ambiguous_key"),
        (b"", "parse_error"),
    ],
)
async def test_a_body_that_is_no_object_or_reads_two_ways_is_refused(rig, body: bytes, reason: str) -> None:
    async with client_of(rig) as client:
        reply = await client.post("/tools/refund", content=body)
    assert (reply.status_code, reply.json()["reason"]) == (400, reason)
    assert reply.headers["content-type"] == "application/problem+json"
    assert (rig.backend.calls, rig.ledger.entries) == ([], [])


async def test_an_unlisted_tool_is_not_found_and_the_attempt_is_written_down(rig) -> None:
    rig.backend.refuses = BackendRejected("not_found")
    async with client_of(rig) as client:
        reply = await client.post("/tools/nothing", content=b"{}")
    assert (reply.status_code, reply.json()["type"]) == (404, "urn:controlplane:backend-rejected")
    assert rig.ledger.entries[-1] == ("outcome", "error", "not_found")


async def test_a_tool_name_stays_one_segment(rig) -> None:
    async with client_of(rig) as client:
        await client.post("/tools/a%20b", content=b"{}")
    assert rig.backend.calls[0].call.resource == "/tool/a%20b"
