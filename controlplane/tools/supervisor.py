"""Keeps the bridges to stdio MCP servers running: start, publish the endpoint, notice the end, back off, start again.

A server that is down is ``server_down`` to its callers and nobody else's trouble. Each start has a fresh random token,
given over the bridge's stdin so that no process list and no environment shows it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import anyio
from pydantic import BaseModel, Field

from controlplane.tools.mcp_upstream import McpEndpoint, down
from controlplane.tools.registry import StdioServer

log = logging.getLogger(__name__)


class SupervisorSettings(BaseModel, frozen=True, extra="forbid"):
    """How patiently stdio servers are kept running."""

    ready_timeout_s: float = Field(60.0, gt=0, description="Seconds until a started server must answer.")
    stop_timeout_s: float = Field(8.0, gt=0, description="Seconds it has to end by itself before it is killed.")
    backoff_first_s: float = Field(1.0, gt=0, description="Pause before the first restart; doubles each time.")
    backoff_limit_s: float = Field(60.0, gt=0, description="Longest pause between restarts.")
    stable_after_s: float = Field(
        60.0, gt=0, description="A server that ran this long starts with a short pause again."
    )


class Bridge(Protocol):
    @property
    def endpoint(self) -> McpEndpoint: ...

    async def ended(self) -> int:
        """Wait until the process has ended; its exit status."""
        ...


StartBridge = Callable[[StdioServer], AbstractAsyncContextManager[Bridge]]
"""Starts a bridge; entering waits until it serves and raises ``BridgeFailed``; leaving stops it for certain."""


class BridgeFailed(Exception):
    """The bridge ended, or did not say in time that it serves."""


class Supervisor:
    """``run`` keeps every server up until cancelled; ``find`` answers where one is just now."""

    def __init__(
        self,
        servers: tuple[StdioServer, ...],
        start: StartBridge,
        settings: SupervisorSettings,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._servers, self._start, self._settings = servers, start, settings
        self._monotonic, self._sleep = monotonic, sleep
        self._endpoints: dict[str, McpEndpoint | None] = {server.name: None for server in servers}
        self._up = {server.name: asyncio.Event() for server in servers}

    def find(self, name: str) -> McpEndpoint | None:
        """None when the name is not ours; raises ``BackendUnavailable`` while the server is down."""
        if name not in self._endpoints:
            return None
        endpoint = self._endpoints[name]
        if endpoint is None:
            raise down(name)
        return endpoint

    async def all_up(self) -> None:
        """Wait until every server runs; bound it, since a broken one never will."""
        for up in self._up.values():
            await up.wait()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for server in self._servers:
                tasks.start_soon(self._keep, server)

    async def _keep(self, server: StdioServer) -> None:
        pause_s = self._settings.backoff_first_s
        while True:
            started_s = self._monotonic()
            await self._run_once(server)
            if self._monotonic() - started_s >= self._settings.stable_after_s:
                pause_s = self._settings.backoff_first_s
            await self._sleep(pause_s)
            pause_s = min(pause_s * 2, self._settings.backoff_limit_s)

    async def _run_once(self, server: StdioServer) -> None:
        """One life of one server. Whatever ends it is logged and never reaches the other servers."""
        try:
            async with self._start(server) as bridge:
                self._endpoints[server.name] = bridge.endpoint
                self._up[server.name].set()
                log.info("MCP server is up", extra={"server": server.name})
                status = await bridge.ended()
                log.warning("MCP server ended", extra={"server": server.name, "exit_status": status})
        except (BridgeFailed, OSError) as error:
            log.warning("MCP server did not start", extra={"server": server.name, "cause": str(error)})
        finally:
            self._endpoints[server.name] = None
            self._up[server.name].clear()


@dataclass(frozen=True, slots=True)
class ProcessBridge:
    process: asyncio.subprocess.Process
    endpoint: McpEndpoint

    async def ended(self) -> int:
        return await self.process.wait()


@dataclass(frozen=True, slots=True)
class BridgeProcesses:
    """Starts real bridges. ``environ`` is where allow-listed variables are taken from."""

    settings: SupervisorSettings
    environ: Mapping[str, str]

    @asynccontextmanager
    async def __call__(self, server: StdioServer) -> AsyncGenerator[Bridge]:
        token = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            *bridge_command(server),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=childs_environ(server, self.environ),
            start_new_session=True,
        )
        try:
            port = await self._ready(process, token)
            yield ProcessBridge(
                process, McpEndpoint(f"http://127.0.0.1:{port}/mcp", ("authorization", f"Bearer {token}"))
            )
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop(process)

    async def _ready(self, process: asyncio.subprocess.Process, token: str) -> int:
        if process.stdin is None or process.stdout is None:
            raise BridgeFailed("no pipes")
        try:
            process.stdin.write(f"{token}\n".encode())
            with anyio.fail_after(self.settings.ready_timeout_s):
                line = await process.stdout.readline()
            return int(json.loads(line)["port"])
        except (TimeoutError, ValueError, KeyError, ConnectionError) as error:
            raise BridgeFailed("it did not say that it serves") from error

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """Closing stdin asks it to end, with its child. A bridge that must be killed takes the child along (tether)."""
        if process.stdin is not None:
            process.stdin.close()
        with anyio.move_on_after(self.settings.stop_timeout_s):
            await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def bridge_command(server: StdioServer) -> list[str]:
    options = [part for name in server.env for part in ("--env", name)]
    if server.cwd is not None:
        options += ["--cwd", str(server.cwd)]
    return [
        *(sys.executable, "-m", "controlplane.tools.stdio_bridge", "--port", "0"),
        *(*options, "--", server.command, *server.args),
    ]


def childs_environ(server: StdioServer, environ: Mapping[str, str]) -> dict[str, str]:
    """PATH and what the registry lists for this server; our own secrets stay with us."""
    return {name: environ[name] for name in ("PATH", *server.env) if name in environ}
