"""``python -m controlplane.tools.stdio_bridge --port P [--env NAME] [--cwd DIR] -- command args…``

Runs one unmodified stdio MCP server as its child and serves it over streamable HTTP on loopback, to clients of both
eras, whatever era the server is of. A process of its own: the gateway never imports the MCP SDK.

The first line on stdin is the bearer token that callers must show; when stdin ends (the gateway closed it or died) the
bridge ends, and its child with it. One line of JSON on stdout, ``{"port": …}``, says that it serves.

Both sides are the official SDK; results travel as plain mappings, so what the SDK's models do not know is lost only
where the SDK serves a revision's own schema. What a shared child cannot offer is not offered: it may not ask a client
anything (sampling, elicitation, roots), and it has no subscriptions.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, get_args

import uvicorn
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import Implementation, Request, RequestParams
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

PROTOCOL_PREFIX = "io.modelcontextprotocol/"
METHODS = {  # capability of the child → methods that reach it
    "tools": ("tools/list", "tools/call"),
    "resources": ("resources/list", "resources/templates/list", "resources/read"),
    "prompts": ("prompts/list", "prompts/get"),
    "completions": ("completion/complete",),
}
GRACE_S = 2
Context = ServerRequestContext[Any, Any]


class AnyParams(RequestParams, extra="allow"):
    """Parameters as they are; the child judges them."""


class AnyResult(BaseModel, extra="allow"):
    """A result as it is."""


@dataclass
class Relay:
    """Every request becomes the same request to the child, in the child's own era."""

    client: Client
    input_schemas: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def server(self) -> Server[Any]:
        """A server that offers what the child offers, under the child's own name."""
        child, capabilities = self.client.server_info, self.client.server_capabilities
        known = child or Implementation(name="stdio", version="")
        server: Server[Any] = Server(
            known.name,
            version=known.version,
            title=known.title,
            instructions=self.client.instructions,
            cache_hints={method: CacheHint() for method in get_args(CacheableMethod)},
            get_tool_input_schema=self.input_schemas.get,
        )
        for capability, methods in METHODS.items():
            if getattr(capabilities, capability) is not None:
                for method in methods:
                    server.add_request_handler(method, AnyParams, self._handler(method))
        return server

    def _handler(self, method: str) -> Callable[[Context, AnyParams], Awaitable[dict[str, Any]]]:
        async def handle(context: Context, _: AnyParams) -> dict[str, Any]:
            reply = await self.client.session.send_request(
                Request[dict[str, Any], str](method=method, params=childs_params(context.params or {})),
                AnyResult,
                progress_callback=context.session.report_progress,
            )
            result = {"resultType": "complete", **reply.model_dump()}  # children of the old era do not say it
            if method == "tools/list":
                self._remember(result)
            return result

        return handle

    def _remember(self, listing: Mapping[str, Any]) -> None:
        """Input schemas, by which the SDK holds ``Mcp-Param-*`` headers against the arguments."""
        self.input_schemas.update(
            {tool["name"]: tool["inputSchema"] for tool in listing.get("tools", ()) if "inputSchema" in tool}
        )


def childs_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` without what belongs to the leg between client and bridge; the SDK adds what the child's leg needs."""
    meta = {
        key: value
        for key, value in (params.get("_meta") or {}).items()
        if key != "progressToken" and not key.startswith(PROTOCOL_PREFIX)
    }
    plain = {key: value for key, value in params.items() if key != "_meta"}
    return {**plain, "_meta": meta} if meta else plain


@dataclass(frozen=True, slots=True)
class Guarded:
    """Nobody but the gateway: other programs on this machine reach loopback too."""

    app: ASGIApp
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admits(scope):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], b"Bearer " + self.token.encode())


class _Watched:
    """A read stream that tells when the child has closed its end."""

    def __init__(self, inner: Any, ended: asyncio.Event) -> None:
        self._inner, self._ended = inner, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._inner.__aexit__(*exception)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._inner.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise


@asynccontextmanager
async def child_streams(parameters: StdioServerParameters, ended: asyncio.Event) -> AsyncGenerator[tuple[Any, Any]]:
    async with stdio_client(parameters) as (read, write):
        yield _Watched(read, ended), write


async def serve(options: argparse.Namespace) -> None:
    stdin = await _stdin()
    token = (await stdin.readline()).decode().strip()
    if not token:
        sys.exit("no token on stdin")
    ended = asyncio.Event()
    async with Client(child_streams(child_of(options), ended), mode="auto", cache=None) as client:
        application = Guarded(Relay(client).server().streamable_http_app(stateless_http=True), token)
        config = uvicorn.Config(
            application, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=GRACE_S
        )
        server = uvicorn.Server(config)
        with loopback_listener(options.port) as listener:
            sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
            sys.stdout.flush()
            leaving = asyncio.create_task(_leave_when_alone(server, stdin, ended))
            await server.serve([listener])
            leaving.cancel()
    if ended.is_set():
        sys.exit("the server behind the bridge has ended")


def loopback_listener(port: int) -> socket.socket:
    """asyncio leaves Nagle's algorithm on for sockets it did not make itself: 40 ms a call, until told otherwise."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _leave_when_alone(server: uvicorn.Server, stdin: asyncio.StreamReader, ended: asyncio.Event) -> None:
    gateway_gone = asyncio.create_task(stdin.read())
    child_gone = asyncio.create_task(ended.wait())
    await asyncio.wait([gateway_gone, child_gone], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def child_of(options: argparse.Namespace) -> StdioServerParameters:
    tether = ["-m", "controlplane.tools.stdio_tether", str(os.getpid())]
    return StdioServerParameters(
        command=sys.executable,
        args=[*tether, *options.command],
        env={name: os.environ[name] for name in options.env if name in os.environ},
        cwd=options.cwd,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="stdio_bridge", description="Serve a stdio MCP server over HTTP.")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="variable the server may see")
    parser.add_argument("--cwd", default=None, help="the server's working directory")
    parser.add_argument("command", nargs="+", help="the server's command and arguments")
    try:
        asyncio.run(serve(parser.parse_args()))
    except* MCPError:
        sys.exit("the command does not answer as an MCP server")


if __name__ == "__main__":
    main()
