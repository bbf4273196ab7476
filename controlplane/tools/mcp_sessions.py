"""Whose MCP session is whose. Knowing a session id proves nothing: a session serves only the one who opened it.

Bounded and in process: when full, the session that was idle longest is forgotten and its owner opens a new one, as
after a restart. Fails closed: a session that is not known here is nobody's.
"""

from __future__ import annotations

from collections import OrderedDict

from controlplane.calls import Principal
from inference.errors import BackendRejected

UNKNOWN_SESSION = "unknown_session"


class McpSessions:
    def __init__(self, limit: int) -> None:
        self._owners: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._limit = limit

    def opened(self, server: str, session: str, principal: Principal) -> None:
        """The server named a session in its reply. The first to be told of it owns it for good."""
        key = (server, session)
        self._owners.setdefault(key, owner(principal))
        self._owners.move_to_end(key)
        if len(self._owners) > self._limit:
            self._owners.popitem(last=False)

    def require(self, server: str, session: str, principal: Principal) -> None:
        """Raises ``BackendRejected`` unless ``principal`` opened the session; not owned and not known look the same."""
        if self._owners.get((server, session)) != owner(principal):
            raise BackendRejected(UNKNOWN_SESSION, "no such session; open a new one")
        self._owners.move_to_end((server, session))

    def closed(self, server: str, session: str) -> None:
        self._owners.pop((server, session), None)

    def __len__(self) -> int:
        return len(self._owners)


def owner(principal: Principal) -> tuple[str, ...]:
    """Who a session belongs to: the subject in its tenant, through exactly this chain of actors."""
    return (principal.tenant, principal.subject, *principal.chain)
