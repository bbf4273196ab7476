"""Models as MCP tools: our own MCP server at ``/mcp/models``, for both eras, without sessions.

``tools/call`` is a call to the model, decided on ``/model/{name}``; every other request asks for the list of models,
decided on ``/model``. Refusals are worded as at every MCP server's door (see ``mcp.py``); arguments that do not fit are
a result with ``isError``, so that the model that wrote them can mend them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call
from controlplane.gateway.doors.listing import list_call
from controlplane.gateway.doors.mcp import MODERN_REVISION, McpDoor
from controlplane.gateway.gateway import Admission
from controlplane.gateway.model_tools import ModelTool, ModelTools, answer_of
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.tools.mcp_message import (
    INVALID_REQUEST,
    LEGACY_REVISIONS,
    METHOD_NOT_FOUND,
    McpMessage,
    MessageRefused,
    read_message,
)
from inference.backend import BackendReply

SERVER = "models"
JSON = (("content-type", "application/json"),)
NEWEST_LEGACY = max(LEGACY_REVISIONS)
CAPABILITIES = {"tools": {"listChanged": False}}
MENDABLE = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""Faults of a tool call that the model which made it is told of, as a result: it asked for what is not there."""

MESSAGE = "mcp"  # where a call keeps the id and the era of its message


class ModelToolsMcp:
    name = "mcp.models"
    paths: Sequence[tuple[str, str]] = [(method, f"/mcp/{SERVER}") for method in ("POST", "GET", "DELETE")]

    def __init__(self, tools: ModelTools, face: McpDoor) -> None:
        """``face`` words the refusals and knows which pages may call."""
        self.tools, self.face = tools, face

    async def read_call(self, request: Request) -> Call:
        try:
            message = await self._message(request)
        except MessageRefused as refused:
            request.state.mcp_refused = refused
            raise BadRequest(refused.reason, refused.detail, refused.status) from refused
        request.state.mcp_message = message
        traceparent = message.traceparent or request.headers.get("traceparent", "")
        if message.method == "tools/call":
            call = self.tools.call_of(self.name, message.params["name"], message.arguments(), traceparent)
        else:
            call = list_call(self.name, traceparent)
        asked = {
            "id": message.id,
            "method": message.method,
            "is_modern": message.is_modern,
            "revision": _asked(message),
        }
        return replace(call, arguments={**call.arguments, MESSAGE: asked})

    async def _message(self, request: Request) -> McpMessage:
        self.face.refuse_foreign_page(request)
        if request.method != "POST":
            raise MessageRefused(INVALID_REQUEST, "method", "no streams, no sessions", HTTPStatus.METHOD_NOT_ALLOWED)
        return read_message(await request.body(), request.headers)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        asked = admission.call.arguments[MESSAGE]
        if asked["id"] is None:
            return replace(reply, status=HTTPStatus.ACCEPTED, headers=(), chunks=_nothing(reply))
        return replace(reply, status=HTTPStatus.OK, headers=JSON, chunks=self._answer(admission, reply))

    async def _answer(self, admission: Admission, reply: BackendReply) -> AsyncGenerator[bytes]:
        call, asked = admission.call, admission.call.arguments[MESSAGE]
        async with aclosing(reply.chunks) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        if call.action == "infer":
            said: dict[str, Any] = {"result": tool_result(answer_of(call, reply.status, body))}
        else:
            said = self._about_the_server(admission, asked)
        if asked["is_modern"] and "result" in said:
            said["result"]["resultType"] = "complete"
        yield json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}).encode()

    def _about_the_server(self, admission: Admission, asked: dict[str, Any]) -> dict[str, Any]:
        server = {"name": "models", "version": version("agent-controlplane")}
        fresh: dict[str, Any] = {"ttlMs": 0, "cacheScope": "private"} if asked["is_modern"] else {}
        match asked["method"]:
            case "initialize":
                revision = asked["revision"] if asked["revision"] in LEGACY_REVISIONS else NEWEST_LEGACY
                return {"result": {"protocolVersion": revision, "capabilities": CAPABILITIES, "serverInfo": server}}
            case "server/discover":
                versions = [MODERN_REVISION, *sorted(LEGACY_REVISIONS, reverse=True)]
                found = {"supportedVersions": versions, "capabilities": CAPABILITIES, "serverInfo": server}
                return {"result": found | fresh}
            case "ping":
                return {"result": {}}
            case "tools/list":
                return {"result": {"tools": [as_tool(one) for one in self.tools.listed(admission.principal)], **fresh}}
            case other:
                return {"error": {"code": METHOD_NOT_FOUND, "message": f"there is no method {other} here"}}

    def refusal(self, request: Request, problem: Problem) -> Response:
        message: McpMessage | None = getattr(request.state, "mcp_message", None)
        if message is not None and message.method == "tools/call" and problem.status in MENDABLE:
            result = {"content": [{"type": "text", "text": problem.detail}], "isError": True}
            result |= {"resultType": "complete"} if message.is_modern else {}
            return JSONResponse({"jsonrpc": "2.0", "id": message.id, "result": result})
        return self.face.refusal(request, problem)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  an answer is sent whole or not at all
        return b""


def as_tool(tool: ModelTool) -> dict[str, Any]:
    hints = {"readOnlyHint": True, "openWorldHint": False}  # a model answers and changes nothing
    return {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters, "annotations": hints}


def tool_result(answer: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "text", "text": json.dumps(answer, ensure_ascii=False)}
    return {"content": [text], "structuredContent": answer, "isError": "error" in answer}


async def _nothing(reply: BackendReply) -> AsyncGenerator[bytes]:
    async with aclosing(reply.chunks) as chunks:
        async for _ in chunks:
            pass
    yield b""


def _asked(message: McpMessage) -> str:
    revision = message.params.get("protocolVersion", "")
    return revision if isinstance(revision, str) else ""
