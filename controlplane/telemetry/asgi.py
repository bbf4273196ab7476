"""The two plain ASGI pieces of telemetry: the access log around an application, and /metrics as one of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from controlplane.telemetry.metrics import Metrics

log = logging.getLogger("controlplane.access")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

FIELDS = "controlplane.log"  # key in the scope of a dict whose items go into the request's line


class AccessLog:
    """One line per request when it has ended. Never the query string: it may hold what must not be logged."""

    def __init__(self, inner: Application, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.inner, self.monotonic = inner, monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not log.isEnabledFor(logging.INFO):
            return await self.inner(scope, receive, send)
        fields: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": 0, "bytes": 0}
        scope[FIELDS] = {}
        started_s = self.monotonic()

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
            elif message["type"] == "http.response.body":
                fields["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self.inner(scope, receive, watch)
        finally:
            client = scope.get("client")
            fields["client"] = client[0] if client else ""
            fields["duration_ms"] = round((self.monotonic() - started_s) * 1000, 2)
            log.info("request", extra={**fields, **scope[FIELDS]})


class MetricsEndpoint:
    """GET /metrics, for a port of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        if scope["type"] != "http":
            return
        if scope["path"] != "/metrics" or scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 404, b"only GET /metrics is here\n", "text/plain; charset=utf-8")
            return
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        try:
            body, content_type = await self.metrics.exposition(accept)
        except Exception as error:  # noqa: BLE001  a scrape that fails is a gap in a graph and nothing more
            self.metrics.broke("exposition", error)
            await _answer(send, 500, b"metrics cannot be rendered\n", "text/plain; charset=utf-8")
            return
        await _answer(send, 200, b"" if scope["method"] == "HEAD" else body, content_type)


async def _answer(send: Send, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
