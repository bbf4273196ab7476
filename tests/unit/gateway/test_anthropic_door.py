"""What the Anthropic doors read of a request, and how they word what went wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.gateway.doors.anthropic import AnthropicDoor
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem
from inference.backend import BackendReply

DOOR = AnthropicDoor("messages", "/v1/messages")
MESSAGES = [{"role": "user", "content": "hi"}]
ADMISSION = Admission(
    Call(id="c", door="anthropic.messages", action="infer", resource="/model/tiny"),
    Principal(subject="agent:one", tenant="acme"),
    Decision(effect=Effect.ALLOW, reason="granted", revision="r"),
    Receipt("c", 0, ""),
    0.0,
    0.0,
)


def request_with(document: Any) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(document).encode()}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def test_policy_reads_a_message_as_it_reads_a_chat() -> None:
    call = await DOOR.read_call(request_with({"model": "tiny", "messages": MESSAGES, "max_tokens": 9, "stream": True}))
    assert call.resource == "/model/tiny"
    assert call.arguments == {"model": "tiny", "max_tokens": 9, "stream": True, "messages_count": 1}
    assert (call.operation, call.door, call.streams) == ("messages", "anthropic.messages", True)


async def test_counting_is_no_stream_and_names_no_cap() -> None:
    door = AnthropicDoor("count_tokens", "/v1/messages/count_tokens")
    call = await door.read_call(request_with({"model": "tiny", "messages": MESSAGES}))
    assert call.arguments == {"model": "tiny", "messages_count": 1}
    assert (call.operation, call.streams) == ("count_tokens", False)


@pytest.mark.parametrize("document", [{}, [], {"model": "tiny", "max_tokens": 0}, {"model": "tiny", "stream": 1}])
async def test_what_is_no_request_is_refused(document: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        await DOOR.read_call(request_with(document))
    assert caught.value.reason == "invalid_body"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (418, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_refusals_have_the_protocols_shape_and_our_word(status: int, kind: str) -> None:
    problem = Problem(status=status, kind="k", reason="our_word", detail="what happened", receipt=Receipt("e", 7, ""))
    response = DOOR.refusal(request_with({}), problem)
    document = json.loads(bytes(response.body))
    assert (response.status_code, document["type"]) == (status, "error")
    expected = {"type": kind, "message": "what happened", "code": "our_word", "decision_id": "e", "ledger_index": 7}
    assert document["error"] == expected
    assert response.headers.get("x-should-retry") == ("false" if status < 500 else None)


def test_a_stream_that_breaks_says_so_in_an_event_that_the_sdk_raises() -> None:
    problem = Problem(status=502, kind="backend", reason="cut", detail="the connection broke")
    name, data, *rest = DOOR.broken(problem).decode().split("\n")
    assert (name, rest) == ("event: error", ["", ""])
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "api_error"


async def chunks(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ((b'{"type":"error","error":{"type":"BadRequestError",', b'"message":"too long"}}'), "too long"),
        ((b'{"error":{"message":"too long","type":"Bad Request","param":"max_tokens","code":400}}',), "too long"),
        ((b'{"detail":"Not Found"}',), "Not Found"),
        ((b"<html>",), "Bad Request"),
        ((), "Bad Request"),
    ],
)
async def test_a_servers_errors_come_in_the_protocols_shape(body: tuple[bytes, ...], message: str) -> None:
    headers = (("content-type", "text/plain"), ("content-length", "999"), ("x-request-id", "1"))
    reply = DOOR.translate(ADMISSION, BackendReply(400, headers, chunks(*body)))
    assert reply.headers == (("x-request-id", "1"), ("content-type", "application/json"))
    document = json.loads(b"".join([chunk async for chunk in reply.chunks]))
    assert document == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


async def test_an_answer_passes_untouched() -> None:
    reply = BackendReply(200, (), chunks(b"{}"))
    assert DOOR.translate(ADMISSION, reply) is reply
