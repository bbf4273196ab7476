"""A backend for vLLM and every other server that speaks the OpenAI HTTP protocol.

One pooled session; no cookies, no redirects, no path that a caller chose. The reply is lent out only when its first
bytes are here: until then a failure is still an error that somebody can answer otherwise. Leaving the context closes
the connection, which is how such a server learns to stop generating. Retries nothing.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
from aiohttp.hdrs import CONTENT_TYPE
from aiohttp.payload import BytesPayload
from yarl import URL

from inference.backend import OK, BackendReply, BackendRequest, Usage
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.openai_http.deadlines import Deadlines
from inference.openai_http.heads import answered, sent
from inference.openai_http.outgoing import Outgoing, Preparer, Rules, salt_key_in
from inference.openai_http.settings import VllmSettings
from inference.openai_http.stream import ReplyStream
from inference.openai_http.wire import OPERATIONS, fault_of, note_usage
from inference.whole import Whole

CONNECTION_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
EVENT_STREAM = "text/event-stream"
PROBE_TIMEOUT_S = 2.0
LARGE_BODY_BYTES = 2**20
NO_NAME = ("User-Agent",)


class Limit(NamedTuple):
    """An instant of the event loop's clock, and the stable word for not having made it."""

    at_s: float
    reason: str


class VllmBackend:
    """One server. ``aclose`` it when done; the session is made by the first call, inside the running loop.

    ``adapters`` are the names that it may know besides its model's.
    """

    def __init__(self, settings: VllmSettings, adapters: Callable[[], Collection[str]] = tuple) -> None:
        self._settings, self._rules = settings, _rules(settings, adapters)
        self._preparer = Preparer(self._rules)
        base = str(settings.base_url).rstrip("/")
        self._targets = {name: (method, URL(f"{base}/{path}")) for name, (method, path) in OPERATIONS.items()}
        self._health = URL(base).origin().with_path(settings.health_path)
        self._api_key: str | None = None
        self._session: aiohttp.ClientSession | None = None
        self._deadlines = Deadlines()
        self._closed = False
        self.under_way = 0  # exchanges, those included that wait for a connection

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``. A 4xx about the request is a reply; everything else that is no success raises."""
        return _Exchange(self, request)

    async def _begin(self, request: BackendRequest, exchange: _Exchange) -> BackendReply:
        settings, now_s = self._settings, asyncio.get_running_loop().time()
        deadline = first_byte = Limit(now_s + min(request.timeout_s, settings.total_timeout_s), "deadline")
        if request.streams:
            first_byte = min(deadline, Limit(now_s + settings.first_byte_timeout_s, "first_byte_timeout"))
        outgoing = self._preparer.prepare(request)
        exchange.response = response = await self._head(request, outgoing, first_byte)
        usage = Usage()
        if response.status != OK or not is_stream(response):
            body = await self._whole(response, deadline)
            if response.status != OK:
                self._raise_fault(response, body)
            note_usage(body, usage)
            return self._lend(request, response, Whole(body), usage)
        stream = ReplyStream(
            usage,
            request.operation,
            outgoing,
            limit_bytes=settings.max_event_bytes,
            says_done=settings.dialect == "vllm",
        )
        exchange.events = events = self._events(response, stream, first_byte, deadline)
        exchange.chunks = chunks = _chained(await anext(events, b""), events)
        return self._lend(request, response, chunks, usage)

    def _lend(
        self, request: BackendRequest, response: aiohttp.ClientResponse, chunks: AsyncGenerator[bytes], usage: Usage
    ) -> BackendReply:
        return BackendReply(
            status=response.status,
            headers=answered(response.raw_headers, is_stream=not isinstance(chunks, Whole)),
            chunks=chunks,
            served_by=self._rules.name_of(request.target),
            usage=usage,
        )

    async def is_alive(self) -> bool:
        """Whether the HTTP server answers. Says little: vLLM answers while asleep, paused or with a frozen worker."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), self._opened().get(self._health) as response:
                return response.status == OK
        except (*CONNECTION_FAILURES, BackendError):
            return False

    async def aclose(self) -> None:
        self._closed = True
        self._deadlines.close()
        if self._session is not None:
            await self._session.close()

    async def _head(self, request: BackendRequest, outgoing: Outgoing, limit: Limit) -> aiohttp.ClientResponse:
        """Send and wait for the head. A streamed reply's head comes with its first event, a plain one's at its end."""
        try:
            method, url = self._targets[request.operation]
        except KeyError:
            raise BackendRejected("unknown_operation", f"no operation {request.operation!r}") from None
        headers, session = sent(request, self._key()), self._opened()
        head = session.request(
            method,
            url,
            data=_payload(outgoing.body),
            headers=headers,
            skip_auto_headers=None if "user-agent" in headers else NO_NAME,  # skipping costs 2 us
            allow_redirects=False,
        )
        try:
            return await self._deadlines.within(limit.at_s, head)
        except CONNECTION_FAILURES as error:
            most = self._settings.max_connections
            if isinstance(error, aiohttp.ConnectionTimeoutError) and self.under_way > most:
                raise BackendUnavailable("busy", f"all {most} connections to it are in use") from error
            raise _error_before_head(error, limit.reason) from error

    async def _events(
        self, response: aiohttp.ClientResponse, stream: ReplyStream, limit: Limit, deadline: Limit
    ) -> AsyncGenerator[bytes]:
        """The streamed body, whole events at a time; ``limit`` holds until the first bytes are here."""
        now, stall_s = asyncio.get_running_loop().time, self._settings.stall_timeout_s
        while chunk := await self._read(response, limit):
            if ready := stream.feed(chunk):
                yield ready
            stream.check()
            limit = min(deadline, Limit(now() + stall_s, "stalled"))
        if rest := stream.end():
            yield rest

    async def _whole(self, response: aiohttp.ClientResponse, deadline: Limit) -> bytes:
        body, most = await self._read(response, deadline), self._settings.max_reply_bytes
        if len(body) <= most and response.content.at_eof():
            return body
        parts = bytearray(body)
        while len(parts) <= most:
            if not (part := await self._read(response, deadline)):
                return bytes(parts)
            parts += part
        raise BackendBroke("reply_too_large", f"more than {most} bytes")

    async def _read(self, response: aiohttp.ClientResponse, limit: Limit) -> bytes:
        """What has arrived, b"" at the end. Sets a deadline only when there is something to wait for."""
        content = response.content
        try:
            if (arrived := content.read_nowait()) or content.at_eof():
                return arrived
            return await self._deadlines.within(limit.at_s, content.readany())
        except TimeoutError as error:
            raise BackendTimeout(limit.reason) from error
        except CONNECTION_FAILURES as error:
            raise BackendBroke("cut", f"the connection broke while answering: {error}") from error

    def _raise_fault(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        if response.status == HTTPStatus.UNAUTHORIZED:
            self._api_key = None  # perhaps the file holds a newer one by now
        if (fault := fault_of(response.status, response.headers, body)) is not None:
            raise fault

    def _key(self) -> str:
        if self._settings.api_key_file is None:
            return ""
        if self._api_key is None:
            try:
                self._api_key = self._settings.api_key_file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not text"
                raise BackendUnavailable("credential_missing", f"cannot read the key: {why}") from error
        if not self._api_key.isprintable():
            raise BackendUnavailable("credential_missing", "the file holds something else than a key")
        return self._api_key

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise BackendUnavailable("closed", "this backend has been closed")
        if self._session is None:
            settings = self._settings
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=settings.keepalive_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=settings.connect_timeout_s, sock_connect=settings.connect_timeout_s
                ),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _Exchange(AbstractAsyncContextManager[BackendReply]):
    """One request and its response, which is closed however this is left."""

    __slots__ = ("_backend", "_request", "chunks", "events", "response")

    def __init__(self, backend: VllmBackend, request: BackendRequest) -> None:
        self._backend, self._request = backend, request
        self.response: aiohttp.ClientResponse | None = None
        self.events: AsyncGenerator[bytes] | None = None
        self.chunks: AsyncGenerator[bytes] | None = None  # of ``events``; never started, it would not close them

    async def __aenter__(self) -> BackendReply:
        self._backend.under_way += 1
        try:
            return await self._backend._begin(self._request, self)  # noqa: SLF001  one thing in two parts
        except BaseException:
            await self._end()
            raise

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return self._end()

    async def _end(self) -> None:
        self._backend.under_way -= 1
        try:
            if self.chunks is not None:
                await self.chunks.aclose()
            if self.events is not None:
                await self.events.aclose()
        finally:
            if self.response is not None and not self.response.closed:  # it is, once all of it has come
                self.response.close()


def _rules(settings: VllmSettings, adapters: Callable[[], Collection[str]]) -> Rules:
    return Rules(
        salt_key=salt_key_in(settings.cache_salt_key_file),
        speaks_vllm=settings.dialect == "vllm",
        schedules_by_priority=settings.schedules_by_priority,
        strict_tools=settings.strict_tools,
        media_hosts=settings.media_hosts,
        model=settings.served_model,
        adapters=adapters,
    )


async def _chained(first: bytes, more: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    if first:
        yield first
    async for chunk in more:
        yield chunk


def _payload(body: bytes) -> bytes | BytesPayload | None:
    if len(body) <= LARGE_BODY_BYTES:
        return body or None
    with warnings.catch_warnings():  # aiohttp would rather have a file; a door has bounded this body already
        warnings.simplefilter("ignore", ResourceWarning)
        return BytesPayload(body)


def is_stream(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get(CONTENT_TYPE, "").lower().startswith(EVENT_STREAM)


def _error_before_head(error: Exception, late: str) -> BackendError:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return BackendUnavailable("connect_timeout", "no connection in time")
        case aiohttp.ClientConnectorDNSError():
            return BackendUnavailable("dns_failed", str(error))
        case aiohttp.ClientConnectorError():
            return BackendUnavailable("connect_failed", str(error))
        case TimeoutError():
            return BackendTimeout(late)
        case _:
            return BackendBroke("hung_up", f"the server hung up before it answered: {error}")


__all__ = ["VllmBackend", "VllmSettings"]
