"""An MCP server over streamable HTTP as a ``Backend``: operation ``message``, target is the server's name.

Forwards the bytes, never re-terminates the protocol: what a client and a server can say to each other does not depend
on what this version of us has heard of.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from controlplane.tools.exchange import Outbound, credential_header, exchange
from controlplane.tools.registry import McpServer
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendRejected, BackendUnavailable

FORWARDED = frozenset(
    {
        "accept",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "traceparent",
        "tracestate",
    }
)
PARAMETER_PREFIX = "mcp-param-"
RETURNED = frozenset(
    {
        "allow",
        "cache-control",
        "content-encoding",
        "content-type",
        "mcp-protocol-version",
        "mcp-session-id",
        "retry-after",
        "x-accel-buffering",
    }
)


def may_be_forwarded(header: str) -> bool:
    """Whether a request header (lower case) belongs to the protocol and not to the caller's credentials."""
    return header in FORWARDED or header.startswith(PARAMETER_PREFIX)


@dataclass(frozen=True, slots=True)
class McpEndpoint:
    """Where a server listens just now, and our credential for it."""

    url: str
    credential: tuple[str, str] | None = None


FindEndpoint = Callable[[str], McpEndpoint | None]
"""The endpoint of a listed server, None when the name is not listed. Raises ``BackendUnavailable`` when it is down."""


def remote_endpoints(servers: tuple[McpServer, ...]) -> FindEndpoint:
    """Endpoints that stand in the registry; secrets are read anew at every call."""
    by_name = {server.name: server for server in servers}

    def find(name: str) -> McpEndpoint | None:
        server = by_name.get(name)
        return None if server is None else McpEndpoint(server.url, credential_header(server.credential))

    return find


class McpBackend:
    """Asks each source of endpoints in turn; a server that none of them knows is refused."""

    def __init__(self, session: aiohttp.ClientSession, *sources: FindEndpoint) -> None:
        self._session, self._sources = session, sources

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        endpoint = self.endpoint(request.target)
        outbound = Outbound(
            name=request.target,
            method=request.http_method,
            url=endpoint.url,
            body=request.body,
            timeout_s=request.timeout_s,
            headers=tuple((name, value) for name, value in request.headers if may_be_forwarded(name)),
            credential=endpoint.credential,
            reply_headers=RETURNED,
        )
        async with exchange(self._session, outbound) as reply:
            yield reply

    def endpoint(self, name: str) -> McpEndpoint:
        """Where the server is just now.

        Raises:
            BackendRejected: it is not listed.
            BackendUnavailable: it is listed and down.
        """
        for find in self._sources:
            endpoint = find(name)
            if endpoint is not None:
                return endpoint
        raise BackendRejected("not_found", f"no such MCP server: {name}")


def down(name: str) -> BackendUnavailable:
    return BackendUnavailable("server_down", f"the MCP server {name} is not running")
