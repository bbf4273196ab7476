"""From an admitted call to the backend that serves its kind of resource. Decides nothing: policy already did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from msgspec.structs import replace

from controlplane.calls import Decision
from controlplane.gateway.gateway import Admission, Dispatch
from inference.backend import Backend, BackendReply, BackendRequest, Reuse
from inference.errors import BackendRejected

TRACEPARENT = "traceparent"
ORDINARY = 5


@dataclass(frozen=True, slots=True)
class ByKind:
    """``kinds`` maps the first segment of a resource path (``model``, ``tool``, ``mcp``) to what serves it.

    ``traceparent_for`` (call id, what was received) gives the trace context that goes upstream, "" for none.
    """

    kinds: Mapping[str, Dispatch]
    traceparent_for: Callable[[str, str], str] = lambda _id, _received: ""

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        call = admission.call
        served = self.kinds.get(call.resource.removeprefix("/").partition("/")[0])
        if served is None:
            raise BackendRejected("not_found", f"nothing serves {call.resource}")
        parent = self.traceparent_for(call.id, call.traceparent)
        if parent or call.traceparent:  # what came may be malformed, and then goes no further
            others = tuple(header for header in call.headers if header[0] != TRACEPARENT)
            headers = (*others, (TRACEPARENT, parent)) if parent else others
            admission = replace(admission, call=replace(call, headers=headers))
        return served.send(admission)


@dataclass(frozen=True, slots=True)
class ByName:
    """What follows the kind in the resource path names the target. A caller's own shorter deadline wins."""

    backend: Backend
    timeout_s: float

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        target = admission.call.resource.removeprefix("/").partition("/")[2]
        return self.backend.send(request_for(admission, target, self.timeout_s))


def request_for(admission: Admission, target: str, timeout_s: float) -> BackendRequest:
    """What goes out for an admitted call. Answers may be remembered for its tenant under its policy revision only."""
    call = admission.call
    return BackendRequest(
        call_id=admission.receipt.event_id,
        target=target,
        operation=call.operation,
        body=call.body,
        version=call.version,
        label=call.label,
        streams=call.streams,
        headers=call.headers,
        timeout_s=timeout_s if call.deadline_s is None else min(timeout_s, call.deadline_s),
        tenant=admission.principal.tenant,
        agent=admission.principal.subject,
        priority=priority_of(admission.decision),
        scope=f"{admission.principal.tenant}:{admission.decision.revision}",
        reuse=reuse_of(admission.decision),
    )


def priority_of(decision: Decision) -> int:
    """The level that policy obliges for this call: 0 is the most urgent, 9 the least."""
    for obligation in decision.obligations:
        if obligation.name == "priority":
            level: int = obligation.parameters["level"]
            return level
    return ORDINARY


def reuse_of(decision: Decision) -> Reuse | None:
    """Policy's leave to give the answer again, and for which way of showing it."""
    for obligation in decision.obligations:
        if obligation.name == "cache":
            leave = obligation.parameters
            break
    else:
        return None
    if leave["ttl_s"] <= 0:
        return None
    shaping = ";".join(f"{way}={','.join(sorts)}" for way, sorts in masks_of(decision))
    return Reuse(leave["ttl_s"], sampled=leave["any"], shaping=shaping)


def masks_of(decision: Decision) -> Iterator[tuple[str, list[str]]]:
    """The sorts of text that policy wants masked, by the way that it goes: ``in`` or ``out``."""
    for obligation in decision.obligations:
        if obligation.name == "redact":
            yield from sorted(obligation.parameters.items())
