"""The OpenAI face: chat, completions, responses, embeddings, ranks, scores and the model list, with errors its SDK
understands.

Policy denials are 403 and exhausted budgets 429 with ``x-should-retry: false``: the official SDK repeats 408, 409, 429
and 5xx on its own, and repeating a refusal helps nobody.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call, Principal, new_call_id
from controlplane.gateway.doors.listing import list_call
from controlplane.gateway.doors.openai_body import read_fields
from controlplane.gateway.edge import HttpDoor, header_fields
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import Problem
from inference.backend import BackendReply

FORWARDED = [
    (name.encode(), name)
    for name in ("accept", "content-type", "x-stainless-retry-count", "user-agent", "x-model-constraints")
]
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
NO_RETRY_BELOW = 500
JSON = (("content-type", "application/json"),)


class OpenAIDoor:
    """One operation of the OpenAI API: the path says which. Some servers' clients know it under more paths than one."""

    def __init__(self, operation: str, *paths: str) -> None:
        self.name, self.operation = f"openai.{operation}", operation
        self.paths: Sequence[tuple[str, str]] = [("POST", path) for path in paths]

    def read_call(self, request: Request) -> Coroutine[Any, Any, Call]:
        return read_inference(request, self.name, self.operation)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:  # noqa: ARG002  protocol
        return reply

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return refusal(problem)

    def broken(self, problem: Problem) -> bytes:
        """The SDK does not notice a stream that ends without ``[DONE]``; it does notice an error event."""
        return b"data: " + json.dumps(error_body(problem)).encode() + b"\n\n"


class ModelListDoor:
    """``GET /v1/models``: only the models that policy lets this principal call."""

    name = "openai.models"
    paths: Sequence[tuple[str, str]] = [("GET", "/v1/models")]

    def __init__(self, visible: Callable[[Principal, str, str], bool]) -> None:
        self.visible = visible

    async def read_call(self, request: Request) -> Call:
        return list_call(self.name, request.headers.get("traceparent", ""))

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        """The catalogue as JSON lines of names, thinned out to what ``principal`` may call."""
        chunks = reply.chunks

        async def listed() -> AsyncGenerator[bytes]:
            async with aclosing(chunks):
                names = b"".join([chunk async for chunk in chunks]).decode().splitlines()
            may = [name for name in names if self.visible(admission.principal, "infer", f"/model/{name}")]
            yield json.dumps({"object": "list", "data": [model_object(name) for name in may]}).encode()

        return replace(reply, headers=JSON, chunks=listed())

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return refusal(problem)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  a list is sent whole or not at all
        return b""


class ModelDoor:
    """``GET /v1/models/{model}``: one entry of the list, for a principal who may read it."""

    name = "openai.model"
    paths: Sequence[tuple[str, str]] = [("GET", "/v1/models/{model}")]

    async def read_call(self, request: Request) -> Call:
        return Call(
            id=new_call_id(),
            door=self.name,
            action="read",
            resource=f"/model/{request.path_params['model']}",
            operation="model",
            traceparent=request.headers.get("traceparent", ""),
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:  # noqa: ARG002  protocol
        chunks = reply.chunks

        async def described() -> AsyncGenerator[bytes]:
            async with aclosing(chunks):
                name = b"".join([chunk async for chunk in chunks]).decode()
            yield json.dumps(model_object(name)).encode()

        return replace(reply, headers=JSON, chunks=described())

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return refusal(problem)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  an entry is sent whole or not at all
        return b""


def doors(visible: Callable[[Principal, str, str], bool]) -> list[HttpDoor]:
    return [
        OpenAIDoor("chat", "/v1/chat/completions"),
        OpenAIDoor("completions", "/v1/completions"),
        OpenAIDoor("responses", "/v1/responses"),
        OpenAIDoor("embeddings", "/v1/embeddings"),
        OpenAIDoor("rerank", "/v1/rerank", "/rerank", "/v2/rerank"),
        OpenAIDoor("score", "/v1/score", "/score"),
        ModelListDoor(visible),
    ]


async def read_inference(request: Request, door: str, operation: str) -> Call:
    """A call of a model, in any protocol whose body names the model at its top. Raises ``BadRequest``."""
    body = await request.body()
    said, headers = read_fields(body, operation), header_fields(request)
    return Call(
        id=new_call_id(),
        door=door,
        action="infer",
        resource=f"/model/{said.model}",
        body=body,
        arguments=said.arguments,
        operation=operation,
        streams=said.streams,
        headers=tuple([(name, headers[raw].decode("latin-1")) for raw, name in FORWARDED if raw in headers]),
        traceparent=headers.get(b"traceparent", b"").decode("latin-1"),
    )


def model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "controlplane"}


def refusal(problem: Problem) -> Response:
    headers = {"x-should-retry": "false"} if problem.status < NO_RETRY_BELOW else {}
    return JSONResponse(error_body(problem), problem.status, headers=headers)


def error_body(problem: Problem) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}`` and, for refusals, the facts; the SDK keeps extra fields."""
    kind = ERROR_TYPES.get(
        problem.status, "server_error" if problem.status >= NO_RETRY_BELOW else "invalid_request_error"
    )
    error = {"message": problem.detail, "type": kind, "param": None, "code": problem.reason}
    return {"error": error | problem.facts()}
