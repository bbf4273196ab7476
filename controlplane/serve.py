"""Running one gateway process: HTTP, gRPC and metrics on their ports, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from audit import AuditError, AuditUnavailable, LedgerCorrupt
from controlplane.gateway.connections import BoundedConnection
from controlplane.gateway.edge import Broken
from controlplane.settings import Settings
from controlplane.telemetry.asgi import MetricsEndpoint
from controlplane.telemetry.logs import configure_logging
from controlplane.tools.registry import RegistryError
from controlplane.wiring import ControlPlane

BACKLOG = 2048  # connections that may wait to be accepted
YOUNG_OBJECTS = 5000  # surplus allocations before a collection; at Python's own 700, every 25 calls and for nothing
log = logging.getLogger(__name__)


class CannotStart(Exception):
    """``problems`` are for the operator to mend: a port that is taken, a key that is missing, a ledger in use."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; running calls get ``server.drain_s`` seconds to finish. Raises ``CannotStart``."""
    configure_logging(settings.telemetry.log_level)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    server, telemetry = settings.server, settings.telemetry
    async with AsyncExitStack() as stack:
        try:
            http = stack.enter_context(bound(server.host, server.http_port))
            scrapes = stack.enter_context(bound(telemetry.metrics_host, telemetry.metrics_port))
            plane = await stack.enter_async_context(ControlPlane(settings))
        except Exception as error:
            raise _cannot_start(error, settings.audit.path) from error
        endpoint = MetricsEndpoint(plane.metrics)
        scraped = uvicorn.Server(http_config(endpoint, telemetry.metrics_host, telemetry.metrics_port, drain_s=1.0))
        doors = uvicorn.Server(http_config(plane.app, server.host, server.http_port, drain_s=server.drain_s))
        end_by_signal(doors)
        metrics = asyncio.create_task(scraped._serve([scrapes]))  # noqa: SLF001  serve() would take the signals as well
        keep_what_stays()
        for each in (http, scrapes):
            each.listen(BACKLOG)  # from here on nobody is refused, and "up" is no lie
        log.info("gateway is up", extra={"http": server.public_url, "grpc_port": plane.grpc_port})
        await doors._serve([http])  # noqa: SLF001  serve() would raise the signal again, and nothing below would be closed
        scraped.should_exit = True
        await metrics


def bound(host: str, port: int) -> socket.socket:
    """A socket of ours at that address; nobody can connect before it is served. Raises ``OSError``."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def end_by_signal(doors: uvicorn.Server) -> None:
    """The first signal lets running calls finish, the second does not. What was begun is closed either way."""

    def end() -> None:
        doors.force_exit = doors.should_exit
        doors.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)


def _cannot_start(error: Exception, ledger: Path) -> Exception:
    """``error`` in an operator's words; what nobody foresaw stays as it is, with its traceback."""
    problems: list[str] = []
    for leaf in _leaves(error):
        match leaf:
            case RegistryError():
                problems += leaf.problems
            case AuditUnavailable():
                problems.append(f"{ledger}: the ledger cannot be written: {leaf.reason}")
            case LedgerCorrupt():
                problems.append(f"{ledger}: not a ledger that can be gone on with: {leaf}")
            case AuditError() | OSError():
                problems.append(str(leaf))
            case RuntimeError() if "Failed to bind" in str(leaf):  # all that gRPC says
                problems.append(f"server.grpc_port: {str(leaf).partition(';')[0]}")
            case _:
                return error
    return CannotStart(problems)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def keep_what_stays() -> None:
    """Leave what start-up made out of garbage collection: it stays until the end (a policy that is replaced is the
    exception, once). Each full collection held all calls up for 75 ms; together they took 40 us of every call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def is_fault(record: logging.LogRecord) -> bool:
    """Not what the server says of a reply that we have it cut: the line of that call says why."""
    return not (record.exc_info and isinstance(record.exc_info[1], Broken))


def http_config(app: Any, host: str, port: int, *, drain_s: float = 0.0) -> uvicorn.Config:
    """How every HTTP port of ours is served."""
    logging.getLogger("uvicorn.error").addFilter(is_fault)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedConnection,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=round(drain_s),
    )
