"""Running one gateway process: HTTP, gRPC and metrics on their ports, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.settings import Settings
from controlplane.telemetry.metrics import Metrics
from controlplane.wiring import ControlPlane

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; running calls get ``server.drain_s`` seconds to finish."""
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    server, telemetry = settings.server, settings.telemetry
    async with ControlPlane(settings) as plane:
        scraped = uvicorn.Server(_config(metrics_app(plane.metrics), telemetry.metrics_host, telemetry.metrics_port))
        scraped.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        doors = uvicorn.Server(_config(plane.app, server.host, server.http_port, drain_s=server.drain_s))
        metrics = asyncio.create_task(scraped._serve())  # noqa: SLF001  serve() would take the signals as well
        log.info("gateway is up", extra={"http": server.public_url, "grpc_port": plane.grpc_port})
        await doors.serve()
        scraped.should_exit = True
        await metrics


def _config(app: ASGIApp, host: str, port: int, *, drain_s: float = 0.0) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(drain_s),
    )


def metrics_app(metrics: Metrics) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """``GET /metrics`` and nothing else, on its own port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/metrics":
            await Response("see /metrics\n", 404)(scope, receive, send)
            return
        body, content_type = await metrics.exposition(Request(scope).headers.get("accept", ""))
        await Response(body, headers={"content-type": content_type})(scope, receive, send)

    return app
