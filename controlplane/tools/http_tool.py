"""A plain HTTP tool as a ``Backend``: operation ``call``, target is the tool's name in the registry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import aiohttp

from controlplane.tools.exchange import Outbound, credential_header, exchange
from controlplane.tools.registry import HttpTool
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendRejected

FORWARDED = frozenset({"accept", "accept-language", "content-type", "idempotency-key", "traceparent", "tracestate"})
RETURNED = frozenset(
    {"content-type", "content-language", "content-encoding", "content-disposition", "etag", "retry-after"}
)


class HttpToolBackend:
    """Forwards the body as it is, with our credential and nothing of the caller's."""

    def __init__(self, tools: Iterable[HttpTool], session: aiohttp.ClientSession) -> None:
        self._tools, self._session = {tool.name: tool for tool in tools}, session

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        tool = self._tools.get(request.target)
        if tool is None:
            raise BackendRejected("not_found", f"no such tool: {request.target}")
        async with exchange(self._session, self._outbound(tool, request)) as reply:
            yield reply

    def _outbound(self, tool: HttpTool, request: BackendRequest) -> Outbound:
        return Outbound(
            name=tool.name,
            method=tool.method,
            url=tool.url,
            body=request.body,
            timeout_s=min(tool.timeout_s, request.timeout_s),
            headers=tuple((name, value) for name, value in request.headers if name in FORWARDED),
            credential=credential_header(tool.credential),
            reply_headers=RETURNED,
            reply_limit_bytes=tool.reply_limit_bytes,
        )
