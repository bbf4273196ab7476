"""The MCP door before a server with memory: what is allowed passes byte for byte, refusals speak the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from audit import AuditUnavailable
from controlplane.calls import Call, Decision, Effect, Obligation, Principal, Receipt, RuleRef
from controlplane.gateway.discharges import redact_reply, redact_request
from controlplane.gateway.doors.mcp import META_KEY, McpDispatch, McpDoor, McpDoorSettings, with_context
from controlplane.gateway.edge import Broken, routes
from controlplane.gateway.gateway import Admission, Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.outcome import Outcome
from controlplane.identity.errors import Unauthenticated
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendTimeout

ALLOW = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
DENY = Decision(
    effect=Effect.DENY, reason="rule_denied", revision="r1", rules=(RuleRef("shop.refund.large", "roles/shop.yaml:14"),)
)
UNGRANTED = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="r1")
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
JSON = (("content-type", "application/json"),)
EVENTS = (("content-type", "text/event-stream"),)
NOW_S = 1_000.0


class Tokens:
    """The token is the subject's name; "" and "forged" prove nobody."""

    async def authenticate(self, credential: str) -> Principal:
        if credential in {"", "forged"}:
            raise Unauthenticated("bad_signature")
        return Principal(subject=credential, tenant="acme", expires_at_s=int(NOW_S) + 60)


@dataclass
class Policy:
    denied: dict[str, Decision] = field(default_factory=dict)
    asked: list[Call] = field(default_factory=list)

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        self.asked.append(call)
        return self.denied.get(call.action, self.denied.get(call.resource, ALLOW))


@dataclass
class Ledger:
    entries: list[tuple[str, str]] = field(default_factory=list)
    is_down: bool = False

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        if self.is_down:
            raise AuditUnavailable("disk_full")
        self.entries.append(("intent" if decision.permits else "deny", call.operation))
        return Receipt("event-1", len(self.entries), "")

    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt:
        self.entries.append((outcome.status, outcome.error))
        return Receipt("event-1", len(self.entries), "")


@dataclass
class Server:
    """An MCP server with memory; ``pause`` is waited for between the first chunk and the rest."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = JSON
    chunks: list[bytes] = field(default_factory=lambda: [b'{"jsonrpc": "2.0",', b'"id":1,"result":{}}'])
    requests: list[BackendRequest] = field(default_factory=list)
    fault: Exception | None = None
    pause: asyncio.Event | None = None

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.requests.append(request)
        if self.fault:
            raise self.fault
        yield BackendReply(status=self.status, headers=self.headers, chunks=self._speak(), served_by=request.target)

    async def _speak(self) -> AsyncGenerator[bytes]:
        for number, chunk in enumerate(self.chunks):
            if number and self.pause:
                await self.pause.wait()
            yield chunk


class Nobody:
    def refused(self, *_: Any) -> None: ...
    def admitted(self, *_: Any) -> None: ...
    def observe(self, *_: Any, recorded: bool) -> None: ...


@dataclass
class Rig:
    policy: Policy = field(default_factory=Policy)
    ledger: Ledger = field(default_factory=Ledger)
    server: Server = field(default_factory=Server)
    hidden: set[str] = field(default_factory=set)
    settings: McpDoorSettings = field(default_factory=McpDoorSettings)

    def application(self) -> Starlette:
        dispatch = McpDispatch(self.server, self.settings, wall_clock=lambda: NOW_S)
        duties = Obligations({"redact": redact_request}, {"redact": redact_reply})
        gateway = Gateway(Tokens(), self.policy, duties, self.ledger, dispatch, Nobody())
        door = McpDoor(self.settings, lambda principal, action, resource: resource not in self.hidden)
        return Starlette(routes=routes([door], gateway, lambda problem: "Bearer", lambda door, reason: None))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
async def client(rig: Rig) -> AsyncGenerator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(rig.application())
    headers = {"authorization": "Bearer alice", "accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000", headers=headers) as client:
        yield client


def message(method: str, *, era: str = "legacy", **params: Any) -> dict[str, Any]:
    meta = {"_meta": META} if era == "modern" else {}
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, **meta}}


async def post(client: httpx2.AsyncClient, body: dict[str, Any] | bytes, **headers: str) -> httpx2.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body, indent=1).encode()
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict) and body.get("params", {}).get("_meta") == META:
        sent |= {"mcp-protocol-version": "2026-07-28", "mcp-method": body["method"]}
        named = body["params"].get("name", body["params"].get("taskId"))
        sent |= {} if named is None else {"mcp-name": named}
    return await client.post("/mcp/shop", content=raw, headers=sent)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_an_allowed_message_passes_byte_for_byte_both_ways(
    rig: Rig, client: httpx2.AsyncClient, era: str
) -> None:
    body = message("tools/call", era=era, name="refund", arguments={"amount": 1}, unheard_of={"b": 1, "a": 2})
    reply = await post(client, body)
    assert rig.server.requests[0].body == json.dumps(body, indent=1).encode()
    assert reply.content == b"".join(rig.server.chunks)
    assert rig.ledger.entries == [("intent", "tools/call"), ("ok", "")]


async def test_policy_sees_the_tool_its_arguments_and_the_trace(rig: Rig, client: httpx2.AsyncClient) -> None:
    meta = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"}
    await post(client, message("tools/call", name="refund", arguments={"amount": 1}, _meta=meta))
    call = rig.policy.asked[0]
    assert (call.action, call.resource, call.arguments) == ("call", "/mcp/shop/refund", {"amount": 1})
    assert call.traceparent == meta["traceparent"]


async def test_the_callers_credentials_stay_here(rig: Rig, client: httpx2.AsyncClient) -> None:
    await post(client, message("ping"), cookie="a=b", x_api_key="k", mcp_name="lie", mcp_protocol_version="2025-11-25")
    names = {name for name, _ in rig.server.requests[0].headers}
    assert names == {"accept", "content-type", "mcp-protocol-version"}


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_denied_tool_call_is_a_result_that_the_model_can_read(
    rig: Rig, client: httpx2.AsyncClient, era: str
) -> None:
    rig.policy.denied["call"] = DENY
    reply = await post(client, message("tools/call", era=era, name="refund", arguments={}))
    result = reply.json()["result"]
    assert (reply.status_code, reply.json()["id"], result["isError"]) == (200, 7, True)
    assert result["content"][0]["text"] == "Denied by policy shop.refund.large: rule_denied. decision event-1"
    assert result["_meta"][META_KEY]["rules"] == [{"id": "shop.refund.large", "source": "roles/shop.yaml:14"}]
    assert result.get("resultType") == ("complete" if era == "modern" else None)
    assert rig.server.requests == []
    assert rig.ledger.entries == [("deny", "tools/call")]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_any_other_denied_request_is_an_error_with_our_own_code(
    rig: Rig, client: httpx2.AsyncClient, era: str
) -> None:
    rig.policy.denied["read"] = UNGRANTED
    reply = await post(client, message("prompts/get", era=era, name="x"))
    assert (reply.status_code, reply.json()["id"]) == (200, 7)
    assert reply.json()["error"]["code"] == 403001
    assert reply.json()["error"]["data"]["reason"] == "no_matching_rule"
    assert rig.server.requests == []


async def test_a_denied_notification_is_a_status_because_it_has_no_answer(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.policy.denied["connect"] = UNGRANTED
    reply = await post(client, {"jsonrpc": "2.0", "method": "notifications/cancelled"})
    assert (reply.status_code, reply.json()["id"]) == (403, None)


async def test_an_unheard_of_method_asks_for_a_right_of_its_own(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.policy.denied["write"] = UNGRANTED
    reply = await post(client, message("tasks/list"))
    assert reply.json()["error"]["code"] == 403001
    assert rig.server.requests == []


@pytest.mark.parametrize("token", [None, "Bearer forged"])
async def test_a_token_problem_is_401_and_nothing_is_parsed(
    rig: Rig, client: httpx2.AsyncClient, token: str | None
) -> None:
    del client.headers["authorization"]
    reply = await post(client, b"not json", **({"authorization": token} if token else {}))
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert reply.json()["error"]["code"] == 401001
    assert (rig.server.requests, rig.ledger.entries) == ([], [])


@pytest.mark.parametrize("method", ["tools/call", "server/discover", "initialize"])
async def test_an_outage_of_the_ledger_is_never_taken_for_an_old_server(
    rig: Rig, client: httpx2.AsyncClient, method: str
) -> None:
    rig.ledger.is_down = True
    reply = await post(client, message(method, name="x"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, 503001)
    assert rig.server.requests == []


async def test_an_outage_of_the_server_keeps_its_status(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.fault = BackendTimeout("timeout")
    reply = await post(client, message("tools/call", name="x"))
    assert (reply.status_code, reply.json()["error"]["code"], reply.json()["id"]) == (504, 504001, 7)
    assert rig.ledger.entries[-1] == ("timeout", "timeout")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[{}]", -32600),
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', -32600),
        (json.dumps(message("tools/call")).encode(), -32602),
    ],
)
async def test_what_cannot_be_decided_on_is_refused_in_the_protocols_words(
    rig: Rig, client: httpx2.AsyncClient, body: bytes, code: int
) -> None:
    reply = await post(client, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert (rig.server.requests, rig.ledger.entries) == ([], [])


async def test_headers_that_contradict_the_body_are_refused(rig: Rig, client: httpx2.AsyncClient) -> None:
    body = json.dumps(message("tools/call", era="modern", name="refund")).encode()
    lie = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": "harmless"}
    reply = await post(client, body, **lie)
    assert (reply.status_code, reply.json()["error"]["code"], reply.json()["id"]) == (400, -32020, 7)
    assert rig.server.requests == []


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "evil.example", 403),
        ("host", "localhost.evil.example:80", 403),
        ("host", "LOCALHOST:99", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "http://localhost.evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://127.0.0.1:3000", 200),
    ],
)
async def test_pages_of_other_sites_stay_out(
    rig: Rig, client: httpx2.AsyncClient, header: str, value: str, status: int
) -> None:
    reply = await post(client, message("ping"), **{header: value})
    assert reply.status_code == status
    assert len(rig.server.requests) == (status == 200)


@pytest.mark.parametrize("method", ["GET", "DELETE", "response"])
async def test_a_message_cannot_go_out_as_another_http_method(
    rig: Rig, client: httpx2.AsyncClient, method: str
) -> None:
    reply = await post(client, message(method))
    assert (reply.status_code, reply.json()["id"], reply.json()["error"]["code"]) == (400, 7, -32601)
    assert rig.server.requests == []


async def test_http_methods_that_mcp_does_not_have_reach_nobody(rig: Rig, client: httpx2.AsyncClient) -> None:
    assert [(await client.request(method, "/mcp/shop")).status_code for method in ("HEAD", "PUT")] == [405, 405]
    assert (await client.request("DELETE", "/mcp/shop", content=b"{}")).status_code == 400
    assert rig.server.requests == []


LISTING = {"result": {"tools": [{"name": "refund"}, {"name": "drop", "x": 1}], "cacheScope": "public"}}


@pytest.mark.parametrize("kind", [JSON, EVENTS])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_tool_list_shows_what_policy_lets_the_caller_call(
    rig: Rig, client: httpx2.AsyncClient, era: str, kind: tuple[tuple[str, str], ...]
) -> None:
    rig.hidden = {"/mcp/shop/drop"}
    raw = json.dumps(LISTING).encode()
    rig.server.headers, rig.server.chunks = kind, [raw] if kind is JSON else [b"id: 1\ndata: " + raw + b"\n\n"]
    reply = await post(client, message("tools/list", era=era))
    shown = json.loads(reply.text.removeprefix("id: 1\ndata: "))
    assert shown == {"result": {"tools": [{"name": "refund"}], "cacheScope": "private"}}


async def test_a_list_replayed_on_the_stream_is_thinned_out_as_well(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.hidden = {"/mcp/shop/drop"}
    rig.server.headers, rig.server.chunks = EVENTS, [b"data: " + json.dumps(LISTING).encode() + b"\n\n"]
    reply = await client.get("/mcp/shop", headers={"last-event-id": "0"})
    assert b"drop" not in reply.content
    assert rig.server.requests[0].http_method == "GET"


async def test_an_encoded_list_is_not_passed_on_unread(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.headers = (*JSON, ("content-encoding", "br"))
    reply = await post(client, message("tools/list"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, 502001)


async def test_a_servers_own_errors_pass(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.status, rig.server.headers, rig.server.chunks = 405, (*JSON, ("allow", "POST")), [b"{}"]
    reply = await client.get("/mcp/shop")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


async def open_session(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.headers = (*JSON, ("mcp-session-id", "s1"))
    reply = await post(client, message("initialize"))
    assert reply.headers["mcp-session-id"] == "s1"
    rig.server.headers = JSON


async def test_a_session_serves_the_one_who_opened_it(rig: Rig, client: httpx2.AsyncClient) -> None:
    await open_session(rig, client)
    assert (await post(client, message("ping"), mcp_session_id="s1")).status_code == 200


async def test_another_subjects_session_is_not_found_and_the_server_never_hears_of_it(
    rig: Rig, client: httpx2.AsyncClient
) -> None:
    await open_session(rig, client)
    stolen = await post(client, message("ping"), mcp_session_id="s1", authorization="Bearer mallory")
    assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, 404001)
    assert len(rig.server.requests) == 1
    assert rig.ledger.entries[-2:] == [("intent", "ping"), ("error", "unknown_session")]


async def test_an_ended_session_is_gone(rig: Rig, client: httpx2.AsyncClient) -> None:
    await open_session(rig, client)
    assert (await client.delete("/mcp/shop", headers={"mcp-session-id": "s1"})).status_code == 200
    assert rig.server.requests[-1].http_method == "DELETE"
    assert (await post(client, message("ping"), mcp_session_id="s1")).status_code == 404


async def test_a_session_that_the_server_will_not_end_lives_on(rig: Rig, client: httpx2.AsyncClient) -> None:
    await open_session(rig, client)
    rig.server.status = 405
    await client.delete("/mcp/shop", headers={"mcp-session-id": "s1"})
    rig.server.status = 200
    assert (await post(client, message("ping"), mcp_session_id="s1")).status_code == 200


async def test_a_standing_stream_ends_with_its_token(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.headers = EVENTS
    await client.get("/mcp/shop")
    await post(client, message("ping"))
    assert [request.timeout_s for request in rig.server.requests] == [60, rig.settings.exchange_timeout_s]


async def test_a_question_in_mid_call_reaches_the_client_before_the_answer_exists(rig: Rig) -> None:
    """The edge holds the last chunk of a call; a held question would wait for its own answer for ever."""
    question, answer = b'data: {"id":1,"method":"elicitation/create"}\n\n', b'data: {"id":7,"result":{}}\n\n'
    rig.server.headers, rig.server.chunks, rig.server.pause = EVENTS, [question, answer], asyncio.Event()
    sent: list[bytes] = []
    body = json.dumps(message("tools/call", name="ask")).encode()

    async def receive() -> dict[str, Any]:
        if not sent:
            return {"type": "http.request", "body": body}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: Any) -> None:
        sent.append(event.get("body", b""))
        if event.get("body") == question:
            assert rig.server.pause is not None
            rig.server.pause.set()

    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer alice")]
    scope = {"type": "http", "method": "POST", "path": "/mcp/shop", "query_string": b"", "headers": headers}
    await asyncio.wait_for(rig.application()(scope, receive, send), 60)
    assert [part for part in sent if part] == [question, answer]


OURS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_trace_context_in_meta_is_replaced_by_ours_and_baggage_goes_no_further():
    meta = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-00", "baggage": "user=root", "progressToken": 7}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "_meta": meta}}
    placed = json.loads(with_context(json.dumps(sent).encode(), OURS))
    assert placed["params"]["_meta"] == {"progressToken": 7, "traceparent": OURS}
    assert placed["params"]["name"] == "x"


def test_names_of_trace_context_may_be_written_with_escapes():
    body = b'{"params":{"_meta":{"\\u0062aggage":"user=root","tracestate":5,"far":1e999,"long":123456789012345678901}}}'
    assert with_context(body, OURS) == (
        b'{"params":{"_meta":{"far":1e999,"long":123456789012345678901,"traceparent":"' + OURS.encode() + b'"}}}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc" : "2.0", "id":1,"method":"ping",  "params":{"_meta":{"progressToken":7}}}',
        b'{"id":1,"method":"ping","params":{"_meta":["traceparent"], "traceparent":1}}',
        b'{"id":1,"method":"ping","params":{"_meta":null,"baggage":1}}',
        b'{"id":1,"result":{}, "params":[{"traceparent":1}]}',
        b'{"id":1,"result":"\\u00e9"}',
    ],
)
def test_message_without_trace_context_keeps_its_very_bytes(body: bytes):
    assert with_context(body, OURS) is body


CREATED = {
    "legacy": {"result": {"task": {"taskId": "t1", "status": "working"}}},
    "modern": {"result": {"resultType": "task", "taskId": "t1", "status": "working"}},
}


def speak(rig: Rig, kind: tuple[tuple[str, str], ...], document: Any) -> None:
    raw = json.dumps(document).encode()
    rig.server.headers, rig.server.chunks = kind, [raw] if kind is JSON else [b"data: " + raw + b"\n\n"]


@pytest.mark.parametrize("kind", [JSON, EVENTS])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_task_serves_the_one_whose_call_opened_it(
    rig: Rig, client: httpx2.AsyncClient, era: str, kind: tuple[tuple[str, str], ...]
) -> None:
    speak(rig, kind, CREATED[era])
    assert "t1" in (await post(client, message("tools/call", era=era, name="refund"))).text
    asking = message("tasks/get", era=era, taskId="t1")
    assert (await post(client, asking)).status_code == 200
    stolen = await post(client, asking, authorization="Bearer mallory")
    assert (stolen.status_code, stolen.json()["error"]["code"]) == (200, -32602)
    assert stolen.json()["error"]["data"]["reason"] == "unknown_task"
    assert [request.http_method for request in rig.server.requests] == ["POST", "POST"], "it never hears of the third"
    assert rig.ledger.entries[-1] == ("error", "unknown_task")


async def test_a_task_that_was_never_handed_out_here_is_nobodys(rig: Rig, client: httpx2.AsyncClient) -> None:
    for params in ({"taskId": "t1"}, {"taskId": None}, {"taskId": ["t1"]}):
        reply = await post(client, message("tasks/cancel", **params))
        assert reply.json()["error"]["code"] == -32602
    assert rig.server.requests == []


async def test_a_method_that_the_new_era_has_no_more_is_not_found(rig: Rig, client: httpx2.AsyncClient) -> None:
    reply = await post(client, message("tasks/result", era="modern", taskId="t1"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, -32601)
    assert rig.server.requests == []


async def test_asking_for_a_strangers_task_does_not_make_it_ones_own(rig: Rig, client: httpx2.AsyncClient) -> None:
    speak(rig, JSON, CREATED["legacy"])
    await post(client, message("tools/call", name="refund"))
    await post(client, message("tools/call", name="refund"), authorization="Bearer mallory")
    stolen = await post(client, message("tasks/result", taskId="t1"), authorization="Bearer mallory")
    assert stolen.json()["error"]["data"]["reason"] == "unknown_task"


@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_a_task_is_not_handed_out_where_answers_must_be_masked(
    rig: Rig, client: httpx2.AsyncClient, kind: tuple[tuple[str, str], ...]
) -> None:
    speak(rig, kind, CREATED["legacy"])
    on_the_way_in, on_the_way_out = ({"in": ["card"], "out": []}, {"in": [], "out": ["card"]})
    rig.policy.denied["/mcp/shop/refund"] = replace(ALLOW, obligations=(Obligation("redact", on_the_way_in),))
    assert b"t1" in (await post(client, message("tools/call", name="refund"))).content
    rig.policy.denied["/mcp/shop/refund"] = replace(ALLOW, obligations=(Obligation("redact", on_the_way_out),))
    with pytest.raises(Broken):
        await post(client, message("tools/call", name="refund"))
    assert rig.ledger.entries[-1] == ("error", "redact_task")


async def test_an_answer_that_must_be_masked_cannot_be_asked_for_again(rig: Rig, client: httpx2.AsyncClient) -> None:
    """With an event's id a client has the server replay what follows it, on a stream that owes no mask."""
    events = (
        b"id: 1\r\ndata:\r\n\r\n",
        b'event: message\nid\nid:2\ndata: {"id":7,"result":{"card":"4111111111111111"}}\n\n',
    )
    rig.server.headers, rig.server.chunks = EVENTS, [*events]
    assert b"id: 1" in (await post(client, message("tools/call", name="refund"))).content
    masked = Obligation("redact", {"in": [], "out": ["card"]})
    rig.policy.denied["/mcp/shop/refund"] = replace(ALLOW, obligations=(masked,))
    reply = await post(client, message("tools/call", name="refund"))
    assert reply.content == (b'data:\r\n\r\nevent: message\ndata: {"id":7,"result":{"card":"****************"}}\n\n')


@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_a_list_of_tasks_shows_the_callers_own(
    rig: Rig, client: httpx2.AsyncClient, kind: tuple[tuple[str, str], ...]
) -> None:
    speak(rig, JSON, CREATED["legacy"])
    await post(client, message("tools/call", name="refund"))
    speak(rig, kind, {"result": {"tasks": [{"taskId": "t1"}, {"taskId": "t2"}]}})
    shown = json.loads((await post(client, message("tasks/list"))).text.removeprefix("data: "))
    assert shown == {"result": {"tasks": [{"taskId": "t1"}]}}


async def test_a_list_of_tasks_that_cannot_be_read_is_not_passed_on(rig: Rig, client: httpx2.AsyncClient) -> None:
    rig.server.headers = (*JSON, ("content-encoding", "br"))
    assert (await post(client, message("tasks/list"))).status_code == 502
