"""The MCP face: streamable HTTP at ``/mcp/{server}`` for both eras, decided on the body, forwarded byte for byte.

| what is asked | action | resource |
|---|---|---|
| ``tools/call`` | ``call`` | ``/mcp/{server}/{tool}`` |
| ``*/list`` | ``list`` | ``/mcp/{server}`` |
| ``resources/read``, ``prompts/get``, ``completion/complete`` | ``read`` | same |
| ``initialize``, ``ping``, ``server/discover``, ``notifications/*``, ``logging/*`` | ``connect`` | same |
| subscriptions, posted responses, the GET stream, ending a session | ``connect`` | same |
| any other method (extensions, ``tasks/*``) | ``write`` | same; a task must be the caller's own |

How a refusal is worded, and why (each measured with real clients): a refused tool call is a normal result with
``isError``, since an HTTP or JSON-RPC error ends the run of several agent frameworks; every other refused request is a
JSON-RPC error with HTTP 200; a refused notification, which has no answer, is HTTP 403. Token problems are 401. Outages
keep their 5xx. HTTP 400 is only for messages that are really malformed: a client that knows both eras takes a 400 as
the sign of an old server and goes back to ``initialize``. Our own error codes are the HTTP status times 1000 plus one:
positive, so outside what JSON-RPC and MCP reserve.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call, Principal, new_call_id
from controlplane.gateway.dispatch import masks_of
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem, advice
from controlplane.telemetry.context import BAGGAGE, TRACEPARENT, TRACESTATE, forwarded
from controlplane.tools.mcp_handles import UNKNOWN_SESSION, UNKNOWN_TASK, McpHandles
from controlplane.tools.mcp_message import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    NAMED_BY,
    ROUTING_HEADERS,
    McpMessage,
    MessageRefused,
    read_message,
    tool_resource,
)
from controlplane.tools.mcp_stream import (
    Change,
    changed_body,
    changed_events,
    noted_body,
    released_events,
    unnumbered_events,
    visible_tools,
)
from controlplane.tools.mcp_tasks import KEY, LIST, own_tasks, task_opened, tasks_named
from controlplane.tools.mcp_upstream import may_be_forwarded
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendBroke

MODERN_REVISION = "2026-07-28"
META_KEY = "io.agent-controlplane/decision"
SESSION_HEADER = "mcp-session-id"
LISTEN, STREAM, END = "subscriptions/listen", "GET", "DELETE"
RESPONSE = "response"
OURS = frozenset({RESPONSE, STREAM, END})
"""Operations that are no method of the protocol. A message with such a method would go out as something else."""
STANDING = frozenset({LISTEN, STREAM})  # what stays open until somebody hangs up
LISTING = frozenset({"tools/list", STREAM})  # a stream may replay a list (Last-Event-ID)
EVENTS = "text/event-stream"
CHANGED = {"application/json": changed_body, EVENTS: changed_events}
NOTED = {"application/json": noted_body, EVENTS: changed_events}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
CONTEXT = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE})
Visible = Callable[[Principal, str, str], bool]


class McpDoorSettings(BaseModel, frozen=True, extra="forbid"):
    """What the MCP face accepts and how long it keeps a stream."""

    allowed_hosts: tuple[str, ...] = Field(
        LOOPBACK, description="Host headers we answer to, against DNS rebinding; without a port, any port."
    )
    allowed_origins: tuple[str, ...] = Field(
        tuple(f"http://{host}" for host in LOOPBACK),
        description="Web origins whose pages may call us; without a port, any port.",
    )
    session_limit: int = Field(10_000, gt=0, description="Sessions remembered at once; the longest idle goes first.")
    task_limit: int = Field(100_000, gt=0, description="Tasks remembered at once; the longest idle goes first.")
    exchange_timeout_s: float = Field(120.0, gt=0, description="Seconds for one request and its answer.")
    stream_timeout_s: float = Field(
        3600.0, gt=0, description="Seconds a standing stream may stay open; never longer than its token is valid."
    )


class McpDoor:
    name = "mcp"
    paths: Sequence[tuple[str, str]] = [(method, "/mcp/{server}") for method in ("POST", "GET", "DELETE")]

    def __init__(self, settings: McpDoorSettings, visible: Visible) -> None:
        self.settings, self.visible = settings, visible

    async def read_call(self, request: Request) -> Call:
        try:
            self.refuse_foreign_page(request)
            body = await request.body()
            message = _posted(body, request) if request.method == "POST" else _without_body(request, body)
        except MessageRefused as refused:
            request.state.mcp_refused = refused
            raise BadRequest(refused.reason, refused.detail, refused.status) from refused
        request.state.mcp_message = message
        server = quote(request.path_params["server"], safe="")
        return Call(
            id=new_call_id(),
            door=self.name,
            action=message.action,
            resource=message.resource(server),
            body=body,
            arguments=message.arguments(),
            operation=message.method or (RESPONSE if request.method == "POST" else request.method),
            streams="text/event-stream" in request.headers.get("accept", ""),
            headers=_forwarded(request, message),
            traceparent=message.traceparent or request.headers.get("traceparent", ""),
        )

    def refuse_foreign_page(self, request: Request) -> None:
        """Against DNS rebinding: a page of another site must not reach us under a name that is not ours."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not _listed(host, self.settings.allowed_hosts):
            raise MessageRefused(INVALID_REQUEST, "foreign_host", "this Host is not ours", HTTPStatus.FORBIDDEN)
        if origin is not None and not _listed(origin, self.settings.allowed_origins):
            raise MessageRefused(INVALID_REQUEST, "foreign_origin", "this Origin is not let in", HTTPStatus.FORBIDDEN)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        call, server = admission.call, server_of(admission.call)

        def may_see(tool: str) -> bool:
            return self.visible(admission.principal, "call", tool_resource(server, tool))

        if call.operation in LISTING:
            return _changed(reply, Change(b"tools", lambda message: visible_tools(message, may_see)))
        if call.action == "call" and _kind(reply) == EVENTS:
            return replace(reply, chunks=released_events(reply.chunks))
        return reply

    def refusal(self, request: Request, problem: Problem) -> Response:
        message: McpMessage | None = getattr(request.state, "mcp_message", None)
        if message is None or message.id is None or problem.decision is None:
            return _error(request, problem, message, _status(problem))
        if message.method == "tools/call":
            return JSONResponse({"jsonrpc": "2.0", "id": message.id, "result": denied_result(problem, message)})
        return _error(request, problem, message, HTTPStatus.OK)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  half an answer must not look whole: cut it
        return b""


class McpDispatch:
    """Where admitted MCP calls go: to the server their path names, in sessions and about tasks of the caller."""

    def __init__(
        self, backend: Backend, settings: McpDoorSettings, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.backend, self.settings, self.wall_clock = backend, settings, wall_clock
        self.sessions = McpHandles(settings.session_limit, UNKNOWN_SESSION)
        self.tasks = McpHandles(settings.task_limit, UNKNOWN_TASK)

    @asynccontextmanager
    async def send(self, admission: Admission) -> AsyncGenerator[BackendReply]:
        """Raises ``BackendError``; ``unknown_session`` or ``unknown_task`` when it is not the caller's."""
        call, server = admission.call, server_of(admission.call)
        session = dict(call.headers).get(SESSION_HEADER)
        if session is not None:
            self.sessions.require(server, session, admission.principal)
        for task in tasks_named(call.operation, call.arguments):
            self.tasks.require(server, str(task), admission.principal)
        async with self.backend.send(self._request(admission, server)) as reply:
            opened = dict(reply.headers).get(SESSION_HEADER)
            if opened is not None and opened != session:
                self.sessions.opened(server, opened, admission.principal)
            if session is not None and _has_ended(call, reply):
                self.sessions.closed(server, session)
            yield self._minding_tasks(_once(reply) if _is_masked(admission) else reply, admission, server)

    def _minding_tasks(self, reply: BackendReply, admission: Admission, server: str) -> BackendReply:
        """A list shows the caller's own tasks; of any other answer we remember whose the task is that it hands out."""
        principal = admission.principal

        def is_own(task: str) -> bool:
            return self.tasks.owns(server, task, principal)

        def note(message: Any) -> None:
            task = task_opened(message)
            if task is None:
                return
            if _is_masked(admission):
                raise BackendBroke("redact_task", "what a task answers later could not be masked")
            self.tasks.opened(server, task, principal)

        if admission.call.operation == LIST:
            return _changed(reply, Change(b"tasks", lambda message: own_tasks(message, is_own)))
        noted = NOTED.get(_kind(reply))
        return reply if noted is None else replace(reply, chunks=noted(reply.chunks, Change(KEY, note)))

    def _request(self, admission: Admission, server: str) -> BackendRequest:
        call = admission.call
        return BackendRequest(
            call_id=admission.receipt.event_id,
            target=server,
            operation="listen" if call.operation in STANDING else "message",
            body=with_context(call.body, dict(call.headers).get("traceparent", "")),
            streams=call.streams,
            headers=call.headers,
            timeout_s=self._timeout_s(admission),
            http_method=call.operation if call.operation in {STREAM, END} else "POST",
        )

    def _timeout_s(self, admission: Admission) -> float:
        if admission.call.operation not in STANDING:
            return self.settings.exchange_timeout_s
        until = admission.principal.expires_at_s
        left = until - self.wall_clock() if until else self.settings.stream_timeout_s
        return max(1.0, min(self.settings.stream_timeout_s, left))


def _is_masked(admission: Admission) -> bool:
    return any(way == "out" and sorts for way, sorts in masks_of(admission.decision))


def _once(reply: BackendReply) -> BackendReply:
    """Not to be had again: a stream that takes up after an event (Last-Event-ID) knows nothing of this call's duty."""
    return replace(reply, chunks=unnumbered_events(reply.chunks)) if _kind(reply) == EVENTS else reply


def _kind(reply: BackendReply) -> str:
    return dict(reply.headers).get("content-type", "").partition(";")[0].strip().lower()


def _changed(reply: BackendReply, change: Change) -> BackendReply:
    changed = CHANGED.get(_kind(reply))
    if changed is None:
        return reply
    if dict(reply.headers).get("content-encoding", "identity") != "identity":
        raise BackendBroke("encoded_reply", "the server encoded a list that must be read")
    return replace(reply, chunks=changed(reply.chunks, change))


def _has_ended(call: Call, reply: BackendReply) -> bool:
    """The server ended the session as asked, or says that there is none. It may also refuse to end one (405)."""
    ended = call.operation == END and reply.status < HTTPStatus.BAD_REQUEST
    return ended or reply.status == HTTPStatus.NOT_FOUND


def with_context(body: bytes, traceparent: str) -> bytes:
    """``body`` with our trace context where the caller put one in its ``_meta``, and no baggage; else as it came."""
    if b'"traceparent"' not in body and b'"baggage"' not in body and b"\\u" not in body:  # names may have escapes
        return body
    document = _members(body)
    params = _members(document.get("params"))
    meta = _members(params.get("_meta"))
    if meta.keys().isdisjoint((TRACEPARENT, BAGGAGE)):
        return body
    said = {name: _text(value) if name in CONTEXT else value for name, value in meta.items()}
    params["_meta"] = msgspec.Raw(msgspec.json.encode(forwarded(said, traceparent)))
    document["params"] = msgspec.Raw(msgspec.json.encode(params))
    return msgspec.json.encode(document)


def _members(document: bytes | msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Of an object; none of anything else."""
    try:
        return msgspec.json.decode(document or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return {}


def _text(value: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.ValidationError:
        return None


def server_of(call: Call) -> str:
    return call.resource.split("/", 3)[2]


def denied_result(problem: Problem, message: McpMessage) -> dict[str, Any]:
    """A refused tool call as a model can read it: what was refused, by which rule, and where that is written."""
    decision, receipt = problem.decision, problem.receipt
    rule = f" {decision.rules[0].id}" if decision is not None and decision.rules else ""
    written = f" decision {receipt.event_id}" if receipt is not None else ""
    text = f"Denied by policy{rule}: {problem.reason}.{written}" + (advice(decision) if decision is not None else "")
    era = {"resultType": "complete"} if message.is_modern else {}
    facts = {META_KEY: {"reason": problem.reason, **problem.facts()}}
    return {"content": [{"type": "text", "text": text}], "isError": True, "_meta": facts, **era}


def _error(request: Request, problem: Problem, message: McpMessage | None, status: int) -> Response:
    """A JSON-RPC error; without an id where the message had none or could not be read."""
    refused: MessageRefused | None = getattr(request.state, "mcp_refused", None)
    identity = message.id if message else refused.id if refused else None
    code = refused.code if refused else _status(problem) * 1000 + 1
    if problem.reason == UNKNOWN_TASK and message is not None:
        code, status = _task_is_unknown(message)
    error = {"code": code, "message": problem.detail, "data": {"reason": problem.reason, **problem.facts()}}
    return JSONResponse({"jsonrpc": "2.0", "id": identity, "error": error}, status)


def _status(problem: Problem) -> int:
    return HTTPStatus.NOT_FOUND if problem.reason == UNKNOWN_SESSION else problem.status


def _task_is_unknown(message: McpMessage) -> tuple[int, int]:
    """Code and status as a server has them that knows the revision and not the task."""
    if message.is_modern and message.method.startswith("tasks/") and message.method not in NAMED_BY:
        return METHOD_NOT_FOUND, HTTPStatus.NOT_FOUND  # tasks/result and tasks/list are of the old era
    return INVALID_PARAMS, HTTPStatus.OK


def _posted(body: bytes, request: Request) -> McpMessage:
    message = read_message(body, request.headers)
    if message.method in OURS:
        refused = MessageRefused(METHOD_NOT_FOUND, "method", f"MCP has no method {message.method}")
        refused.id = message.id
        raise refused
    return message


def _without_body(request: Request, body: bytes) -> McpMessage:
    if request.method not in {STREAM, END}:  # HEAD comes along with GET in the routing
        raise MessageRefused(INVALID_REQUEST, "method", "MCP has no such method", HTTPStatus.METHOD_NOT_ALLOWED)
    if body:
        raise MessageRefused(INVALID_REQUEST, "unexpected_body", f"{request.method} carries no message")
    return McpMessage()


def _forwarded(request: Request, message: McpMessage) -> tuple[tuple[str, str], ...]:
    """Only the protocol's own headers. Routing headers of the old era are nobody's promise: they stay here."""
    dropped = frozenset() if message.is_modern else ROUTING_HEADERS
    found: Mapping[str, str] = request.headers
    return tuple((name, value) for name, value in found.items() if may_be_forwarded(name) and name not in dropped)


def _listed(value: str, allowed: Sequence[str]) -> bool:
    """Whether a Host or Origin stands in the list, with its port or, where the list names none, with any."""
    value = value.lower()
    bare, _, port = value.rpartition(":")
    return value in allowed or (port.isdigit() and bare in allowed)
