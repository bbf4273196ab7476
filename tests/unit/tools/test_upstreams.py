"""HTTP tools and MCP servers as backends: our credential, no redirects, bounds, and one family of errors.

The upstream is a small server of our own on a loopback port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from controlplane.tools.exchange import open_session
from controlplane.tools.http_tool import HttpToolBackend
from controlplane.tools.mcp_upstream import McpBackend, down, remote_endpoints
from controlplane.tools.registry import Credential, HttpTool, McpServer
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable

Answer = Callable[[web.Request], Any]


@dataclass
class Upstream:
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Answer = lambda _: web.json_response({"ok": True})
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, {k.lower(): v for k, v in request.headers.items()}, await request.read()))
        answer = self.answer(request)
        return await answer if asyncio.iscoroutine(answer) else answer


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", upstream.handle)
    server = TestServer(app)
    await server.start_server()
    upstream.url = str(server.make_url("/tool"))
    yield upstream
    await server.close()


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


def call(target: str = "refund", **fields: Any) -> BackendRequest:
    return BackendRequest(call_id="1", target=target, operation="call", body=b'{"amount": 1}', **fields)


async def read(reply: BackendReply) -> bytes:
    async with aclosing(reply.chunks) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def outcome(backend: HttpToolBackend | McpBackend, request: BackendRequest) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async with backend.send(request) as reply:
            await read(reply)
    return caught.value


async def test_the_body_goes_out_as_it_is_with_our_credential_and_nothing_of_the_callers(
    upstream: Upstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("ours\n")
    tool = HttpTool(name="refund", url=upstream.url, method="PUT", credential=Credential(file=tmp_path / "secret"))
    headers = (
        ("content-type", "application/json"),
        ("authorization", "Bearer callers"),
        ("cookie", "a=b"),
        ("traceparent", "00-x"),
    )
    async with HttpToolBackend([tool], session).send(call(headers=headers)) as reply:
        assert (reply.status, await read(reply), reply.served_by) == (200, b'{"ok": true}', "refund")
    method, seen, body = upstream.requests[0]
    assert (method, body, seen["authorization"], seen["traceparent"]) == (
        "PUT",
        b'{"amount": 1}',
        "Bearer ours",
        "00-x",
    )
    assert not {"cookie", "user-agent"} & set(seen)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (("application/x-www-form-urlencoded",), "application/json"),
        (('multipart/form-data; boundary="a+json"',), "application/json"),
        (("application/x-www-form-urlencoded, text/a+json",), "application/json"),
        (("application/json", "application/x-www-form-urlencoded"), "application/json"),
        ((), "application/json"),
        (("Application/LD+JSON; profile=x",), "application/ld+json"),
    ],
)
async def test_what_was_decided_on_as_json_is_called_nothing_else(
    upstream: Upstream, session: aiohttp.ClientSession, said: tuple[str, ...], sent: str
) -> None:
    """A tool that takes forms would find other arguments in the same bytes."""
    tool, server = HttpTool(name="refund", url=upstream.url), McpServer(name="refund", url=upstream.url)
    headers = tuple(("content-type", each) for each in said)
    for backend in (HttpToolBackend([tool], session), McpBackend(session, remote_endpoints((server,)))):
        async with backend.send(call(headers=headers)) as reply:
            await read(reply)
    assert [seen["content-type"] for _, seen, _ in upstream.requests] == [sent, sent]


async def test_a_header_in_any_encoding_comes_back_in_its_own_bytes(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    said = 'attachment; filename="\u65e5\u672c.pdf"'
    upstream.answer = lambda _: web.Response(headers={"Content-Disposition": said})
    async with HttpToolBackend([HttpTool(name="refund", url=upstream.url)], session).send(call()) as reply:
        await read(reply)
    assert dict(reply.headers)["content-disposition"].encode("latin-1") == said.encode()


async def test_nothing_an_upstream_says_is_remembered_for_the_next_caller(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.answer = lambda _: web.Response(headers={"Set-Cookie": "who=alice; Path=/"})
    named = upstream.url.replace("127.0.0.1", "localhost")  # cookies are not kept for bare addresses anyway
    backend = HttpToolBackend([HttpTool(name="refund", url=named)], session)
    for _ in range(2):
        async with backend.send(call()) as reply:
            await read(reply)
    assert [seen.get("cookie") for _, seen, _ in upstream.requests] == [None, None]


async def test_a_rotated_secret_is_used_at_the_next_call(
    upstream: Upstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    backend = HttpToolBackend([HttpTool(name="refund", url=upstream.url, credential=Credential(file=secret))], session)
    for value in ("one", "two"):
        secret.write_text(value)
        async with backend.send(call()) as reply:
            await read(reply)
    assert [seen["authorization"] for _, seen, _ in upstream.requests] == ["Bearer one", "Bearer two"]


async def test_without_our_secret_nothing_goes_out(
    upstream: Upstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    tool = HttpTool(name="refund", url=upstream.url, credential=Credential(file=tmp_path / "gone"))
    error = await outcome(HttpToolBackend([tool], session), call())
    assert (type(error), error.reason) == (BackendUnavailable, "credential_unavailable")
    assert upstream.requests == []


async def test_an_unlisted_name_is_refused_and_never_called(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    for backend in (HttpToolBackend([], session), McpBackend(session, remote_endpoints(()))):
        error = await outcome(backend, call("unlisted"))
        assert (type(error), error.reason) == (BackendRejected, "not_found")


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500])
async def test_the_tools_own_status_passes(upstream: Upstream, session: aiohttp.ClientSession, status: int) -> None:
    upstream.answer = lambda _: web.Response(status=status, text="no", headers={"Set-Cookie": "a=b", "X-Secret": "1"})
    async with HttpToolBackend([HttpTool(name="refund", url=upstream.url)], session).send(call()) as reply:
        assert (reply.status, await read(reply)) == (status, b"no")
        assert dict(reply.headers) == {"content-type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (
            lambda _: web.Response(status=302, headers={"Location": "http://169.254.1.1/"}),
            BackendBroke,
            "redirect_refused",
        ),
        (lambda _: web.Response(status=401), BackendUnavailable, "credential_refused"),
        (lambda _: web.Response(body=b"x" * 101), BackendBroke, "reply_too_large"),
    ],
)
async def test_what_is_not_passed_on(
    upstream: Upstream, session: aiohttp.ClientSession, answer: Answer, kind: type[BackendError], reason: str
) -> None:
    upstream.answer = answer
    tool = HttpTool(name="refund", url=upstream.url, reply_limit_bytes=100)
    error = await outcome(HttpToolBackend([tool], session), call())
    assert (type(error), error.reason) == (kind, reason)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"000 Nothing", b"600 Odd"])
async def test_a_status_that_is_no_answer_is_not_passed_on(session: aiohttp.ClientSession, status: bytes) -> None:
    """A proxy between agent and gateway that saw the 101 would open a tunnel past itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        error = await outcome(HttpToolBackend([HttpTool(name="refund", url=url)], session), call())
    assert (type(error), error.reason) == (BackendBroke, "invalid_reply")


async def test_a_reply_that_grows_too_large_breaks_off(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"x" * 10)
        return response

    upstream.answer = endless
    tool = HttpTool(name="refund", url=upstream.url, reply_limit_bytes=100)
    assert (await outcome(HttpToolBackend([tool], session), call())).reason == "reply_too_large"


async def test_an_upstream_that_hangs_is_a_timeout_and_one_that_is_not_there_is_unavailable(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = hang
    hanging = HttpToolBackend([HttpTool(name="refund", url=upstream.url, timeout_s=0.05)], session)
    assert type(await outcome(hanging, call())) is BackendTimeout
    absent = HttpToolBackend([HttpTool(name="refund", url="http://127.0.0.1:9/")], session)
    assert type(await outcome(absent, call())) is BackendUnavailable


async def test_an_upstream_that_breaks_off_is_broken(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "10"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    upstream.answer = half
    error = await outcome(HttpToolBackend([HttpTool(name="refund", url=upstream.url)], session), call())
    assert (type(error), error.reason) == (BackendBroke, "disconnected")


async def test_an_mcp_server_gets_the_protocols_headers_and_its_session_comes_back(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.answer = lambda _: web.Response(
        body=b"{}", content_type="application/json", headers={"Mcp-Session-Id": "s", "WWW-Authenticate": "Basic"}
    )
    backend = McpBackend(session, remote_endpoints((McpServer(name="files", url=upstream.url),)))
    sent = {"mcp-method": "tools/call", "mcp-param-region": "eu", "mcp-session-id": "s", "accept": "text/event-stream"}
    request = call("files", headers=(*sent.items(), ("authorization", "Bearer callers"), ("origin", "http://x")))
    async with backend.send(request) as reply:
        assert dict(reply.headers) == {"content-type": "application/json", "mcp-session-id": "s"}
    _, seen, body = upstream.requests[0]
    assert sent.items() <= seen.items()
    assert not {"authorization", "origin"} & set(seen)
    assert body == request.body


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_http_method_is_the_protocols(
    upstream: Upstream, session: aiohttp.ClientSession, method: str
) -> None:
    backend = McpBackend(session, remote_endpoints((McpServer(name="files", url=upstream.url),)))
    request = BackendRequest(call_id="1", target="files", operation="message", http_method=method)
    async with backend.send(request) as reply:
        await read(reply)
    assert [(seen, body) for seen, _, body in upstream.requests] == [(method, b"")]


async def test_events_arrive_while_the_server_still_speaks_and_leaving_hangs_up(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        try:
            await asyncio.Event().wait()
        finally:
            upstream.hung_up.set()
        return response

    upstream.answer = stream
    backend = McpBackend(session, remote_endpoints((McpServer(name="files", url=upstream.url),)))
    async with backend.send(call("files")) as reply:
        assert await anext(reply.chunks) == b"data: 1\n\n"
    await asyncio.wait_for(upstream.hung_up.wait(), 60)


async def test_a_source_that_knows_the_server_is_down_is_believed(session: aiohttp.ClientSession) -> None:
    def dead(name: str) -> None:
        raise down(name)

    error = await outcome(McpBackend(session, dead), call("files"))
    assert (type(error), error.reason) == (BackendUnavailable, "server_down")
