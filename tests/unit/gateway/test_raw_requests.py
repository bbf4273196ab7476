"""What clients put on the wire and no HTTP library would, against the server and the settings that the product uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from controlplane.gateway.connections import HEAD_LIMIT_BYTES, BoundedConnection
from controlplane.gateway.edge import Broken
from controlplane.gateway.hygiene import Hygiene
from tests.matrix.world import listening

HEAD = b"POST /tools/refund HTTP/1.1\r\nhost: gateway\r\n"
INNER = b"GET /inner HTTP/1.1\r\nhost: gateway\r\n\r\n"
PATIENCE_S = 30


@dataclass
class Door:
    """Remembers of each request its path, its body and its header fields as they were when the body had been read."""

    asked: list[tuple[str, bytes, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def __call__(self, scope, receive, send):
        self.entered.set()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.asked.append((scope["path"], body, list(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                yield reader, writer
            finally:
                writer.close()


@pytest.fixture
async def door() -> AsyncGenerator[Door]:
    door = Door()
    async with listening(Hygiene(door, body_limit_bytes=1 << 20)) as door.port:
        yield door


@pytest.mark.parametrize("comes_late", [True, False])
async def test_trailer_never_becomes_a_header(door: Door, comes_late: bool):
    async with door.connected() as (reader, writer):
        writer.write(HEAD + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
        if comes_late:
            await door.entered.wait()
        writer.write(b"0\r\ncontent-type: application/json; charset=utf-7\r\nauthorization: Bearer x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    ((_, body, headers),) = door.asked
    assert (body, [name for name, _ in headers]) == (b"{}", [b"host", b"content-type", b"transfer-encoding"])


@pytest.mark.parametrize("length", [b"content-length: %d" % len(INNER), b"transfer-encoding: chunked"])
async def test_body_behind_an_upgrade_is_never_taken_for_a_request(door: Door, length: bytes):
    async with door.connected() as (reader, writer):
        writer.write(HEAD + b"connection: upgrade\r\nupgrade: h2c\r\n" + length + b"\r\n\r\n")
        refused = await reader.readuntil(b"}")
        writer.write(INNER)
        rest = await reader.read()
    assert (refused[:12], rest, door.asked) == (b"HTTP/1.1 400", b"", [])
    assert b"upgrade_with_body" in refused


WHOLE = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"GET /", b"a" * 1000),
        (HEAD + b"x: ", b"a" * 1000),
        (HEAD, b"x: a\r\n" * 200),
        (WHOLE + b"0\r\nx: ", b"a" * 1000),
        (WHOLE + b"1;", b"a" * 1000),
    ],
    ids=["address", "field", "fields", "trailer", "chunk extension"],
)
async def test_what_never_becomes_a_request_or_a_body_is_cut_off(door: Door, begun: bytes, endless: bytes):
    async with door.connected() as (reader, writer):
        with suppress(ConnectionError):
            writer.write(begun + endless * (4 * HEAD_LIMIT_BYTES // len(endless)))
            await reader.read()  # it ends: nobody waits for the rest
    assert door.asked == []


async def test_a_long_body_and_many_requests_are_no_long_head(door: Door):
    body = b"x" * HEAD_LIMIT_BYTES
    async with door.connected() as (reader, writer):
        for _ in range(3):
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % (3 * len(body)))
            for _ in range(3):
                writer.write(body)
                await writer.drain()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert [len(said) for _, said, _ in door.asked] == [3 * len(body)] * 3


class Endless:
    """Answers without end; ``left`` when it is told that nobody reads."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self, scope, receive, send):
        await receive()
        told = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not told.done():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
        assert (await told)["type"] == "http.disconnect"
        self.left.set()


async def test_answer_that_nobody_reads_does_not_keep_its_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BoundedConnection, "unread_limit_s", 0.01)
    endless = Endless()
    async with listening(endless) as port, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(INNER)
        await endless.left.wait()  # the reader's own buffer is full by then, and nothing takes from it
        writer.close()
        assert not reader.at_eof()


@pytest.mark.parametrize(("error", "is_logged"), [(Broken, False), (RuntimeError, True)])
async def test_a_reply_that_is_cut_on_purpose_is_no_fault_in_the_log(
    error: type[Exception], is_logged: bool, caplog: pytest.LogCaptureFixture
):
    async def cut(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    async with listening(cut) as port, Door(port=port).connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        assert (await reader.read()).endswith(b"half")
    assert bool(caplog.records) is is_logged
