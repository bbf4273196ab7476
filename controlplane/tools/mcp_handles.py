"""Whose an MCP session or task is. Knowing an id proves nothing: it serves only the one who was first told it.

Bounded and in process: when full, what was idle longest is forgotten, and so is everything by a restart. Fails closed:
what is not known here is nobody's. Its owner opens a new session, or calls the tool again.
"""

from __future__ import annotations

from collections import OrderedDict

from controlplane.calls import Principal
from inference.errors import BackendRejected

UNKNOWN_SESSION, UNKNOWN_TASK = "unknown_session", "unknown_task"


class McpHandles:
    """Of one kind; ``unknown`` is the reason that others hear."""

    def __init__(self, limit: int, unknown: str) -> None:
        self._owners: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._limit, self._unknown = limit, unknown

    def opened(self, server: str, handle: str, principal: Principal) -> None:
        """The server named it in a reply. The first to be told of it owns it for good."""
        key = (server, handle)
        self._owners.setdefault(key, owner(principal))
        self._owners.move_to_end(key)
        if len(self._owners) > self._limit:
            self._owners.popitem(last=False)

    def owns(self, server: str, handle: str, principal: Principal) -> bool:
        return self._owners.get((server, handle)) == owner(principal)

    def require(self, server: str, handle: str, principal: Principal) -> None:
        """Raises ``BackendRejected`` unless it is the principal's own; not owned and not known look the same."""
        if not self.owns(server, handle, principal):
            raise BackendRejected(self._unknown, f"{self._unknown.replace('_', ' ')}: open one of your own")
        self._owners.move_to_end((server, handle))

    def closed(self, server: str, handle: str) -> None:
        self._owners.pop((server, handle), None)

    def __len__(self) -> int:
        return len(self._owners)


def owner(principal: Principal) -> tuple[str, ...]:
    """Who a handle belongs to: the subject in its tenant, through exactly this chain of actors."""
    return (principal.tenant, principal.subject, *principal.chain)
