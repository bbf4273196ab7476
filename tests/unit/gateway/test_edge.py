"""One endpoint for all HTTP doors: order, hang-ups, the last byte, broken replies."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from audit import AuditUnavailable
from controlplane.calls import Call, Decision, Effect, Receipt
from controlplane.gateway.edge import Broken, DoorEndpoint, FixedPaths, credential_of, reply_headers
from controlplane.gateway.gateway import Admission
from controlplane.gateway.hygiene import Hygiene
from controlplane.gateway.problems import Problem
from inference.backend import BackendReply
from inference.errors import BackendBroke, BackendUnavailable
from tests.unit.gateway.conftest import AGENT, ALLOW, a_call


@dataclass
class PlainDoor:
    name: str = "plain"
    paths: tuple[tuple[str, str], ...] = (("POST", "/plain"),)
    action: str = "infer"
    streams: bool = False
    last_words: bytes = b""

    async def read_call(self, request: Request) -> Call:
        body = await request.body()
        return Call(
            id="c1", door=self.name, action=self.action, resource="/model/tiny", body=body, streams=self.streams
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        return reply

    def refusal(self, request: Request, problem: Problem) -> Response:
        return JSONResponse(problem.as_json(), problem.status)

    def broken(self, problem: Problem) -> bytes:
        return self.last_words


@dataclass
class Wire:
    """The server's side of one ASGI exchange; ``gone`` says that the client has disconnected."""

    token: str | None = "good"
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    on_send: Any = None
    body_read: bool = False

    async def receive(self) -> dict[str, Any]:
        if not self.body_read:
            self.body_read = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if self.on_send:
            self.on_send(message)

    async def run(self, rig: Any, door: PlainDoor | None = None) -> None:
        headers = [(b"host", b"x")]
        if self.token is not None:
            headers.append((b"authorization", f"Bearer {self.token}".encode()))
        scope = {"type": "http", "method": "POST", "path": "/plain", "headers": headers, "query_string": b""}
        endpoint = DoorEndpoint(door or PlainDoor(), rig.gateway, lambda problem: "Bearer", self.counted)
        await endpoint(scope, self.receive, self.send)

    def counted(self, door: str, problem: Problem) -> None:
        self.counted_as = (door, problem.kind, problem.reason)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return self.sent[-1].get("more_body") is False


async def test_answer_carries_the_backends_head_and_the_receipt(rig):
    wire = Wire()
    await wire.run(rig)
    assert (wire.status, wire.body, wire.ended) == (200, b"abc", True)
    assert wire.headers["content-type"] == "text/plain"
    assert wire.headers["x-audit-receipt"] == "0 c1"
    assert wire.headers["x-served-by"] == "tiny/1"


async def test_what_we_say_of_an_answer_no_backend_says(rig):
    theirs = ("x-call-id", "x-audit-receipt", "X-Served-By", "x-degraded", "x-cache", "age")
    rig.backend.headers = tuple((name, "forged") for name in theirs)
    wire = Wire()
    await wire.run(rig)
    ours = [(b"x-call-id", b"c1"), (b"x-audit-receipt", b"0 c1"), (b"x-served-by", b"tiny/1")]
    assert wire.sent[0]["headers"] == ours


async def test_what_belongs_to_the_connection_behind_us_is_not_said_on_the_one_in_front(rig):
    of_the_connection = ("Connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding")
    of_the_server = ("upgrade", "date", "server")
    rig.backend.headers = tuple((name, "theirs") for name in (*of_the_connection, *of_the_server, "etag"))
    wire = Wire()
    await wire.run(rig)
    assert [name for name, value in wire.sent[0]["headers"] if value == b"theirs"] == [b"etag"]


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ({"authorization": "Bearer t"}, "t"),
        ({"authorization": "bearer  t "}, "t"),
        ({"x-api-key": "t"}, "t"),
        ({"authorization": "Bearer t", "x-api-key": "other"}, "t"),
        ({"authorization": "Basic eDp5", "x-api-key": "t"}, ""),  # no second try for who came with another sort
        ({"authorization": "Bearer", "x-api-key": "t"}, ""),
        ({}, ""),
    ],
)
def test_credential_is_the_bearer_token_or_the_key_of_who_shows_nothing_else(headers, credential):
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert credential_of(Request({"type": "http", "headers": fields})) == credential


@pytest.mark.parametrize("token", [None, "forged"])
async def test_stranger_gets_401_with_a_challenge_and_is_counted(rig, token):
    wire = Wire(token=token)
    await wire.run(rig)
    assert wire.status == 401
    assert wire.headers["www-authenticate"] == "Bearer"
    assert wire.counted_as == ("plain", "unauthenticated", "bad_signature")
    assert not wire.body_read


async def test_denial_is_403_with_rule_and_ledger_index(rig):
    rig.policy.decision = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="r1")
    wire = Wire()
    await wire.run(rig)
    assert wire.status == 403
    assert json.loads(wire.body)["ledger_index"] == 0
    assert wire.headers["x-audit-receipt"] == "0 c1"


async def test_rate_limit_is_429_and_says_when_to_come_back(rig):
    rig.policy.decision = Decision(effect=Effect.DENY, reason="rate_limited", revision="r1", retry_after_s=2.4)
    wire = Wire()
    await wire.run(rig)
    assert (wire.status, wire.headers["retry-after"]) == (429, "3")


async def test_ledger_that_cannot_write_is_503_and_nothing_is_called(rig):
    rig.ledger.broken = AuditUnavailable("disk_full")
    wire = Wire()
    await wire.run(rig)
    assert wire.status == 503
    assert json.loads(wire.body)["reason"] == "disk_full"
    assert not rig.backend.calls


async def test_body_that_grows_beyond_the_limit_while_it_is_read_is_413_and_nothing_is_admitted(rig):
    """A chunked body has no declared length: the limit is met while a door reads it."""
    wire = Wire()
    parts = [b"x" * 60, b"x" * 60]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": True}

    wire.receive = receive
    endpoint = DoorEndpoint(PlainDoor(), rig.gateway, lambda problem: "Bearer", wire.counted)
    headers = [(b"host", b"x"), (b"authorization", b"Bearer good")]
    scope = {"type": "http", "method": "POST", "path": "/plain", "headers": headers, "query_string": b""}
    await Hygiene(endpoint, body_limit_bytes=100)(scope, wire.receive, wire.send)
    assert (wire.status, json.loads(wire.body)["reason"]) == (413, "body_too_large")
    assert rig.ledger.entries == []


async def test_body_that_comes_in_pieces_is_read_whole(rig):
    wire, pieces = Wire(), [(b"{", True), (b"", True), (b"}", False)]

    async def receive() -> dict[str, Any]:
        if not pieces:
            await wire.gone.wait()
        body, more = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": more}

    wire.receive = receive
    await wire.run(rig)
    assert [admission.call.body for admission in rig.backend.calls] == [b"{}"]


async def test_who_leaves_while_sending_its_request_has_asked_for_nothing(rig):
    """Half a request may well be a request, and not the one that was meant."""
    wire = Wire()
    messages = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    wire.receive = receive
    await wire.run(rig)
    assert (rig.ledger.entries, rig.backend.calls, wire.sent) == ([], [], [])


async def test_backend_that_fails_before_the_head_still_becomes_a_status_code(rig):
    rig.backend.refuses = BackendUnavailable("breaker_open", retry_after_s=5)
    wire = Wire()
    await wire.run(rig)
    assert (wire.status, wire.headers["retry-after"]) == (503, "5")


async def test_backend_that_fails_before_the_first_byte_still_becomes_a_status_code(rig):
    rig.backend.script = [BackendBroke("stream_cut")]
    wire = Wire()
    await wire.run(rig)
    assert wire.status == 502


async def test_unforeseen_error_is_told_to_the_log_and_says_nothing_about_our_insides(rig, caplog):
    rig.backend.refuses = RuntimeError("password=hunter2")
    wire = Wire()
    await wire.run(rig)
    assert wire.status == 500
    assert b"hunter2" not in wire.body
    assert [record.getMessage() for record in caplog.records] == ["unforeseen error"]


async def test_outage_that_has_its_own_status_code_is_no_unforeseen_error(rig, caplog):
    rig.backend.refuses = BackendUnavailable("breaker_open")
    await Wire().run(rig)
    assert not caplog.records


async def test_broken_reply_ends_with_the_protocols_last_words(rig):
    rig.backend.script = [b"ab", BackendBroke("stream_cut")]
    wire = Wire()
    await wire.run(rig, PlainDoor(last_words=b"broken"))
    assert (wire.body, wire.ended) == (b"abbroken", True)


async def test_broken_reply_without_last_words_cuts_the_connection(rig):
    rig.backend.script = [b"ab", BackendBroke("stream_cut")]
    wire = Wire()
    with pytest.raises(Broken):
        await wire.run(rig)
    assert not wire.ended


async def test_backend_that_breaks_after_the_last_byte_breaks_no_reply_that_is_whole(rig):
    rig.backend.breaks_at_the_end = BackendBroke("stream_cut")
    wire = Wire()
    await wire.run(rig, PlainDoor(last_words=b"broken"))
    assert (wire.body, wire.ended) == (b"abc", True)


async def test_chunk_of_a_stream_leaves_before_the_next_one_comes(rig):
    next_one = asyncio.Event()
    rig.backend.script = [b"ab", next_one, b"c"]
    wire = Wire(on_send=lambda message: next_one.set() if message.get("body") == b"ab" else None)
    async with asyncio.timeout(60):
        await wire.run(rig, PlainDoor(streams=True))
    assert (wire.body, wire.ended) == (b"abc", True)


@pytest.mark.parametrize("script", [[b"ab", b"c"], [b"abc"]])
@pytest.mark.parametrize("streams", [False, True])
async def test_last_byte_of_a_call_with_effects_waits_for_the_durable_outcome(rig, script, streams):
    rig.backend.script = script
    entries_at_send: list[int] = []
    wire = Wire(on_send=lambda message: entries_at_send.append(len(rig.ledger.entries)))
    await wire.run(rig, PlainDoor(action="call", streams=streams))
    assert wire.body == b"abc"
    assert wire.sent[-1]["body"] == script[-1]
    assert entries_at_send[-1] == 2, "the last bytes left before the outcome was recorded"
    assert all(count == 1 for count in entries_at_send[:-1])


async def test_hang_up_cancels_the_backend_and_leaves_one_outcome(rig):
    rig.backend.script = [b"ab", asyncio.Event()]
    wire = Wire()
    wire.on_send = lambda message: wire.gone.set() if message.get("body") == b"ab" else None
    await wire.run(rig)
    assert rig.ledger.entries[1:] == [("outcome", "cancelled", "")]
    assert rig.backend.closed == 1
    assert not wire.ended


@pytest.mark.parametrize(
    ("rung", "age_s", "told"),
    [
        ("primary", None, {}),
        ("cached", 7, {b"x-cache": b"hit", b"age": b"7"}),
        ("cache", 70, {b"x-cache": b"stale", b"age": b"70", b"x-degraded": b"cache"}),
        ("lighter", None, {b"x-degraded": b"lighter"}),
    ],
)
def test_caller_is_told_of_saved_and_of_degraded_answers(
    rung: str, age_s: int | None, told: dict[bytes, bytes]
) -> None:
    admission = Admission(a_call(), AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)
    reply = BackendReply(200, (), chunks=None, rung=rung, age_s=age_s)  # type: ignore[arg-type]  # nobody reads them
    headers = dict(reply_headers(admission, reply))
    assert {name: headers[name] for name in (b"x-cache", b"age", b"x-degraded") if name in headers} == told


async def test_reply_that_is_here_whole_leaves_in_one_piece(rig):
    rig.backend.whole = b"abc"
    wire = Wire()
    await wire.run(rig)
    assert [message.get("body") for message in wire.sent[1:]] == [b"abc"]
    assert wire.ended


async def test_whole_reply_of_a_call_with_effects_waits_for_the_durable_outcome(rig):
    rig.backend.whole = b"abc"
    entries_at_send: list[int] = []
    wire = Wire(on_send=lambda message: entries_at_send.append(len(rig.ledger.entries)))
    await wire.run(rig, PlainDoor(action="call"))
    assert (wire.body, entries_at_send) == (b"abc", [1, 2])


@pytest.mark.parametrize(
    ("kind", "method", "path", "served_by"),
    [
        ("http", "POST", "/v1/chat", "door"),
        ("http", "GET", "/v1/chat", "others"),  # who answers for a wrong method is the router's business
        ("http", "POST", "/v1/chat/", "others"),
        ("http", "GET", "/v1/models/tiny", "others"),
        ("lifespan", "POST", "/v1/chat", "others"),
    ],
)
async def test_fixed_path_is_found_by_method_and_path_and_the_rest_is_routed(kind, method, path, served_by):
    served = []

    class App:
        def __init__(self, name):
            self.name = name

        async def __call__(self, scope, receive, send):
            served.append(self.name)

    routes = [
        Route("/v1/chat", App("door"), methods=["POST"]),
        Route("/v1/models/{model}", App("template"), methods=["GET"]),
    ]
    await FixedPaths(routes, App("others"))({"type": kind, "method": method, "path": path}, None, None)  # type: ignore[arg-type]  # unused
    assert served == [served_by]
