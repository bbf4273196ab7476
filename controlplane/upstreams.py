"""Breakers before tools and MCP servers: ``tool:search`` and ``mcp:github``, one for each that the registry lists.

They are there from the start, so that metrics and console show them, and are never forgotten. What fails is told by
the exchange alone: a tool's own "no" is an answer. Nothing is asked twice. An MCP stream that stands open for hours
can be no probe and teaches nothing; it is refused while its server's breaker is not closed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from controlplane.resilience.breakers import Breakers
from controlplane.resilience.guarded import GuardedBackend
from controlplane.resilience.settings import BreakerSettings
from controlplane.tools.registry import Registry
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendUnavailable

LISTEN = "listen"
SLOW_SHARE = 0.5
"""A tool may take as long as its work takes; half of the time that it gets at most is slow for any."""


@dataclass(frozen=True, slots=True)
class GuardedUpstreams:
    """``guarded`` holds ``inner`` again for each upstream, behind its breaker; other names are for it to refuse."""

    inner: Backend
    guarded: Mapping[str, GuardedBackend]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``. Raises also what ``GuardedBackend`` raises."""
        guarded = self.guarded.get(request.target)
        if guarded is None:
            return self.inner.send(request)
        if request.operation != LISTEN:
            return guarded.send(request)
        refusal = guarded.refusal()
        return self.inner.send(request) if refusal is None else _refused(refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamBreakers:
    """Makes the breakers of what the registry lists. ``tool_s`` and ``mcp_s`` are the longest that a call may take."""

    registry: Registry
    breakers: Breakers
    settings: BreakerSettings
    now: Callable[[], float]
    tool_s: float
    mcp_s: float

    def tools(self, inner: Backend) -> GuardedUpstreams:
        longest_s = {tool.name: min(tool.timeout_s, self.tool_s) for tool in self.registry.http_tools}
        return self._guarded("tool", inner, longest_s)

    def servers(self, inner: Backend) -> GuardedUpstreams:
        names = [server.name for server in (*self.registry.mcp_servers, *self.registry.stdio_servers)]
        return self._guarded("mcp", inner, dict.fromkeys(names, self.mcp_s))

    def _guarded(self, kind: str, inner: Backend, longest_s: Mapping[str, float]) -> GuardedUpstreams:
        guarded = {}
        for name, limit_s in longest_s.items():
            own = self.settings.model_copy(update={"slow_call_s": SLOW_SHARE * limit_s})
            breaker = self.breakers.add(f"{kind}:{name}", own)
            guarded[name] = GuardedBackend(inner, breaker, self.now, self.breakers.leases)
        return GuardedUpstreams(inner, guarded)


@asynccontextmanager
async def _refused(error: BackendUnavailable) -> AsyncGenerator[BackendReply]:
    raise error
    yield  # makes this a generator
