"""From an admitted call to the backend that serves its kind of resource. Decides nothing: policy already did."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from controlplane.gateway.gateway import Admission
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendRejected

DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Backends:
    """``kinds`` maps the first segment of a resource path (``model``, ``tool``, ``mcp``) to what serves it.

    ``timeouts_s`` bounds a call of that kind; a caller's own shorter deadline wins.
    """

    kinds: Mapping[str, Backend]
    timeouts_s: Mapping[str, float]

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        call = admission.call
        kind, _, name = call.resource.removeprefix("/").partition("/")
        backend = self.kinds.get(kind)
        if backend is None:
            raise BackendRejected("not_found", f"nothing serves {call.resource}")
        limit = self.timeouts_s.get(kind, DEFAULT_TIMEOUT_S)
        return backend.send(
            BackendRequest(
                call_id=admission.receipt.event_id,
                target=name.partition("/")[0] if kind == "mcp" else name,
                operation=call.operation,
                body=call.body,
                version=call.version,
                label=call.label,
                streams=call.streams,
                headers=call.headers,
                timeout_s=limit if call.deadline_s is None else min(limit, call.deadline_s),
                scope=f"{admission.principal.tenant}:{admission.decision.revision}",
                http_method=call.http_method,
            )
        )
