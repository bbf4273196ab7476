"""What a server may do with a connection, however odd. The usual is in ``tests/contracts``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from inference.openai_http.connections import Connections, Response

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG_S = 60.0


class Server:
    """``opened`` counts the connections that were made to it."""

    def __init__(self, serve: Serve) -> None:
        self._serve, self.opened = serve, 0
        self._inside = 0
        self.has_visitor, self.hung_up, self.is_idle = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self._inside += 1
        self.has_visitor.set()
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()
            self._inside -= 1
            if not self._inside:
                self.is_idle.set()


@asynccontextmanager
async def asked(serve: Serve, **settings: float) -> AsyncGenerator[tuple[Connections, Server]]:
    server = Server(serve)
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        given = {"limit": 1, "keepalive_s": LONG_S, "connect_timeout_s": 1.0} | settings
        connections = Connections(URL(f"http://127.0.0.1:{port}"), **given)
        yield connections, server
        await connections.aclose()


async def body_of(response: Response) -> bytes:
    body = b""
    while not response.has_ended:
        body += await response.read(LONG_S + asyncio.get_running_loop().time())
    return body


async def ask(connections: Connections, body: bytes = b"body", within_s: float = LONG_S) -> Response:
    return await connections.ask(HEAD, body, connections.now() + within_s)


def answering(*answers: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readexactly(len(HEAD) + 4)
            writer.write(answer)
        await reader.readexactly(1)

    return serve


async def test_a_connection_whose_answer_has_come_serves_the_next_call() -> None:
    async with asked(answering(ANSWER, ANSWER)) as (connections, server):
        for _ in range(2):
            response = await ask(connections)
            assert await body_of(response) == b"ok"
            response.close()
        assert server.opened == 1


async def test_an_answer_that_is_left_half_read_is_hung_up_on() -> None:
    async with asked(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")) as (connections, server):
        (await ask(connections)).close()
        await server.hung_up.wait()


async def test_interim_heads_are_not_the_answer() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with asked(answering(early + ANSWER)) as (connections, _):
        response = await ask(connections)
        assert (response.status, await body_of(response)) == (200, b"ok")


async def test_what_is_no_http_is_an_error_of_the_connection() -> None:
    async with asked(answering(b"SSH-2.0-x\r\n\r\n")) as (connections, _):
        with pytest.raises(aiohttp.ClientError):
            await ask(connections)


async def test_a_server_that_says_nothing_is_left_in_time_and_hung_up_on() -> None:
    async with asked(answering(b"")) as (connections, server):
        with pytest.raises(TimeoutError):
            await ask(connections, within_s=0.05)
        await server.hung_up.wait()


async def test_a_call_whose_time_is_up_is_not_sent() -> None:
    async with asked(answering(ANSWER)) as (connections, server):
        with pytest.raises(TimeoutError):
            await ask(connections, within_s=0.0)
        assert server.opened == 0


async def test_who_waits_for_a_connection_waits_no_longer_than_its_own_time() -> None:
    async with asked(answering(b"")) as (connections, _):
        first = asyncio.create_task(ask(connections))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError) as caught:
            await ask(connections, within_s=0.05)
        assert not isinstance(caught.value, aiohttp.ConnectionTimeoutError)
        first.cancel()
        await asyncio.wait([first])


async def test_a_connection_on_which_a_body_is_still_to_be_sent_serves_nobody_else() -> None:
    """A server may answer before it has read a request to the end."""
    large, seen = b"x" * 20_000_000, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HEAD))
        writer.write(ANSWER)
        await seen.wait()
        while await reader.read(2**20):
            pass

    async with asked(serve) as (connections, server):
        for _ in range(2):
            response = await ask(connections, large)
            assert await body_of(response) == b"ok"
            response.close()
        assert server.opened == 2
        seen.set()
        await server.is_idle.wait()


async def test_a_body_that_stops_coming_is_left_in_time() -> None:
    async with asked(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")) as (connections, server):
        response = await ask(connections)
        assert await response.read(connections.now() + LONG_S) == b"ok"
        with pytest.raises(TimeoutError):
            await response.read(connections.now() + 0.05)
        response.close()
        await server.hung_up.wait()


async def test_cancelling_a_call_hangs_up() -> None:
    async with asked(answering(b"")) as (connections, server):
        waiting = asyncio.create_task(ask(connections))
        await server.has_visitor.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await server.hung_up.wait()
