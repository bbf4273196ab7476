"""HTTP/1.1 with one server, over aiohttp's connections and its parser.

A request by aiohttp's session brings redirects, cookies, credentials from the environment, traces, header maps that are
merged, and a task that writes the body. Nothing of that is wanted here, and it is 45 of 65 us. Names, TLS, the limit of
connections, their reuse, parsing and flow control are aiohttp's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from inference.openai_http.deadlines import Deadlines

SWITCHING = 101
INTERIM = range(100, 200)
"""Heads of these only announce the real one (RFC 9110, 15.2)."""


class Response:
    """An answer whose head is here. Its connection goes back by itself when all of its body has come."""

    __slots__ = ("_connection", "_content", "_deadlines", "headers", "raw_headers", "status")

    def __init__(
        self, connection: Connection, message: RawResponseMessage, content: StreamReader, deadlines: Deadlines
    ) -> None:
        self.status: int = message.code
        self.headers: Mapping[str, str] = message.headers
        self.raw_headers: tuple[tuple[bytes, bytes], ...] = message.raw_headers
        self._content, self._deadlines = content, deadlines
        self._connection: Connection | None = connection
        content.on_eof(self._ended)

    async def read(self, until_s: float) -> bytes:
        """What has arrived, b"" at the end. Waits only when there is something to wait for.

        Raises:
            TimeoutError: nothing came until ``until_s`` of the loop's clock.
            aiohttp.ClientError, OSError: the connection broke.
        """
        content = self._content
        if (arrived := content.read_nowait()) or content.at_eof():
            return arrived
        self._deadlines.add(content, until_s)
        try:
            return await content.readany()
        finally:
            self._deadlines.discard(content)

    @property
    def has_ended(self) -> bool:
        """Whether everything has come and was read."""
        return self._content.at_eof()

    def close(self) -> None:
        """Hang up, unless the answer has ended."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ended(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if (transport := connection.transport) is not None and transport.get_write_buffer_size():
            self.close()  # answered before it was asked to the end: what is still to be sent must not go into the next
            return
        connection.release()
        self._connection = None


class Connections:
    """To the server at ``origin``; make it inside the running loop, ``aclose`` it when done."""

    def __init__(self, origin: URL, *, limit: int, keepalive_s: float, connect_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._connector = aiohttp.TCPConnector(limit=limit, keepalive_timeout=keepalive_s)
        self._whom = aiohttp.ClientRequest("GET", origin, loop=self._loop)  # says where to connect, and is never sent
        self._connect_timeout_s, self._timeout = connect_timeout_s, _to_connect(connect_timeout_s)
        self._deadlines = Deadlines(self._loop)

    async def ask(self, head: bytes, body: bytes, until_s: float) -> Response:
        """Send a request and wait for the head of its answer. Asks once, and follows nothing.

        Raises:
            TimeoutError: it is ``until_s`` of the loop's clock.
            aiohttp.ClientError, OSError: as aiohttp's sessions do.
        """
        connection = await self._connection(until_s)
        try:
            message, content = await self._exchanged(connection, head, body, until_s)
        except BaseException:
            connection.close()
            raise
        return Response(connection, message, content, self._deadlines)

    async def aclose(self) -> None:
        self._deadlines.close()
        await self._connector.close()

    async def _exchanged(
        self, connection: Connection, head: bytes, body: bytes, until_s: float
    ) -> tuple[RawResponseMessage, StreamReader]:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:  # hung up as soon as it was there
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        transport.writelines((head, body))
        self._deadlines.add(protocol, until_s)
        try:
            message, content = await protocol.read()
            while message.code in INTERIM and message.code != SWITCHING:
                message, content = await protocol.read()
        except HttpProcessingError as error:
            raise aiohttp.ClientPayloadError(f"no HTTP: {error.message}") from error
        finally:
            self._deadlines.discard(protocol)
        return message, content

    async def _connection(self, until_s: float) -> Connection:
        left_s = until_s - self.now()
        if left_s <= 0:
            raise TimeoutError
        if left_s < self._connect_timeout_s:
            return await self._connector.connect(self._whom, [], _to_connect(left_s))
        try:
            return await self._connector.connect(self._whom, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error


def _to_connect(timeout_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=timeout_s, sock_connect=timeout_s, ceil_threshold=math.inf)
