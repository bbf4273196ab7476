"""The Anthropic face: messages and the counting of their tokens, with errors its SDK understands.

An agent's token comes as ``Authorization: Bearer`` or as ``x-api-key``; ``edge.py`` reads both.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call
from controlplane.gateway.doors.openai import JSON, NO_RETRY_BELOW, read_inference
from controlplane.gateway.edge import HttpDoor
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import Problem
from inference.backend import BackendReply
from inference.openai_http.wire import error_message

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicDoor:
    """One operation of the Anthropic API: the path says which."""

    def __init__(self, operation: str, path: str) -> None:
        self.name, self.operation = f"anthropic.{operation}", operation
        self.paths: Sequence[tuple[str, str]] = [("POST", path)]

    def read_call(self, request: Request) -> Coroutine[Any, Any, Call]:
        return read_inference(request, self.name, self.operation)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:  # noqa: ARG002  protocol
        """vLLM words what it could not even read as OpenAI's errors, and calls the others by names of its own."""
        if reply.status < HTTPStatus.BAD_REQUEST:
            return reply
        headers = tuple(header for header in reply.headers if header[0] not in ("content-length", "content-type"))
        return replace(reply, headers=headers + JSON, chunks=_reworded(reply))

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        headers = {"x-should-retry": "false"} if problem.status < NO_RETRY_BELOW else {}
        return JSONResponse(error_body(problem), problem.status, headers=headers)

    def broken(self, problem: Problem) -> bytes:
        return b"event: error\ndata: " + json.dumps(error_body(problem)).encode() + b"\n\n"


def doors() -> list[HttpDoor]:
    return [
        AnthropicDoor("messages", "/v1/messages"),
        AnthropicDoor("count_tokens", "/v1/messages/count_tokens"),
    ]


def error_body(problem: Problem) -> dict[str, Any]:
    """``{"type": "error", "error": {type, message}}`` and, beside what the protocol knows, our word and the facts."""
    error = {"type": error_type(problem.status), "message": problem.detail, "code": problem.reason}
    return {"type": "error", "error": error | problem.facts()}


def error_type(status: int) -> str:
    return ERROR_TYPES.get(status, "api_error" if status >= NO_RETRY_BELOW else "invalid_request_error")


async def _reworded(reply: BackendReply) -> AsyncGenerator[bytes]:
    async with aclosing(reply.chunks) as chunks:
        body = b"".join([chunk async for chunk in chunks])
    error = {"type": error_type(reply.status), "message": error_message(body) or HTTPStatus(reply.status).phrase}
    yield json.dumps({"type": "error", "error": error}).encode()
