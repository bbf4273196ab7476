"""Models as OpenAI functions: ``GET /v1/functions`` is what goes into ``tools=[…]`` of a chat, ``POST
/v1/functions/{name}`` does what the chat's model then asks for, with the call's arguments as its body.

Errors are those of the OpenAI face.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from controlplane.calls import Call
from controlplane.gateway.doors import openai
from controlplane.gateway.doors.listing import list_call
from controlplane.gateway.gateway import Admission
from controlplane.gateway.model_tools import ModelTool, ModelTools, answer_of
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.strict_json import Ambiguous, parse_object
from inference.backend import BackendReply


class FunctionsDoor:
    name = "openai.functions"
    paths: Sequence[tuple[str, str]] = [("GET", "/v1/functions"), ("POST", "/v1/functions/{name}")]

    def __init__(self, tools: ModelTools) -> None:
        self.tools = tools

    async def read_call(self, request: Request) -> Call:
        traceparent = request.headers.get("traceparent", "")
        if "name" not in request.path_params:  # HEAD comes along with GET in the routing
            return list_call(self.name, traceparent)
        return self.tools.call_of(
            self.name, request.path_params["name"], arguments_in(await request.body()), traceparent
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        return replace(reply, headers=openai.JSON, chunks=self._answer(admission, reply))

    async def _answer(self, admission: Admission, reply: BackendReply) -> AsyncGenerator[bytes]:
        async with aclosing(reply.chunks) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        if admission.call.action == "list":
            functions = [as_function(tool) for tool in self.tools.listed(admission.principal)]
            yield json.dumps({"object": "list", "data": functions}).encode()
            return
        answer = answer_of(admission.call, reply.status, body)
        yield json.dumps(answer.get("error", answer)).encode()

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return openai.refusal(problem)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  an answer is sent whole or not at all
        return b""


def arguments_in(body: bytes) -> dict[str, Any]:
    """Raises ``BadRequest``: ``invalid_body`` or ``ambiguous_body``."""
    try:
        return parse_object(body)
    except Ambiguous as error:
        reason = "invalid_body" if error.reason in {"parse_error", "not_an_object"} else "ambiguous_body"
        raise BadRequest(reason, error.detail) from None


def as_function(tool: ModelTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
