"""W3C trace context in and out: HTTP headers, gRPC metadata and MCP ``_meta`` alike. Pure.

What comes in is a stranger's word: it is read strictly, its lengths are capped, its ``baggage`` is dropped, and nothing
is decided by it. What goes out is a new child, whose ids follow from the call's id: nothing has to be remembered
between the two acts of a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from uuid import UUID

from msgspec import Struct

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
SAMPLED = 0x01
RANDOM_TRACE_ID = 0x02  # W3C trace context level 2: the right half of the trace id is random

LONGEST_STATE = 512  # W3C trace context §3.3.1.5: at least this much should be passed on
_STATE = re.compile(r"[\x20-\x7e]*")
# §3.2: a version we do not know may have more after the flags, the 56th character and on; version 00 may not.
_PARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.{0,64})?"
)


class TraceContext(Struct, frozen=True):
    trace_id: int
    span_id: int
    flags: int

    def header(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


class CallContext(Struct, frozen=True):
    """A call's place in a trace: who asked (None: nobody we know), our own span, and the one that goes out."""

    parent: TraceContext | None
    server: TraceContext
    client: TraceContext


def is_well_formed(received: str) -> bool:
    """Whether ``parse`` can read ``received``, for a third of what reading it costs."""
    return _PARENT.fullmatch(received) is not None


def parse(received: str) -> TraceContext | None:
    """The context in a ``traceparent``; None unless it is well formed."""
    found = _PARENT.fullmatch(received)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    return TraceContext(int(trace_id, 16), int(span_id, 16), int(flags, 16))


def received_in(carrier: Mapping[str, Any]) -> str:
    """The ``traceparent`` in headers (lower-case names) or in an MCP ``_meta``; "" unless it is well formed."""
    value = carrier.get(TRACEPARENT)
    return value if isinstance(value, str) and is_well_formed(value) else ""


def forwarded(carrier: Mapping[str, Any], traceparent: str) -> dict[str, Any]:
    """``carrier`` as it may go upstream: our ``traceparent``, no ``baggage``, a ``tracestate`` only if it is sane."""
    kept = {name: value for name, value in carrier.items() if name not in {TRACEPARENT, TRACESTATE, BAGGAGE}}
    if not traceparent:
        return kept
    kept[TRACEPARENT] = traceparent
    state = carrier.get(TRACESTATE)
    if isinstance(state, str) and 0 < len(state) <= LONGEST_STATE and _STATE.fullmatch(state):
        kept[TRACESTATE] = state
    return kept


def place(call_id: str, received: str, *, sampled: bool) -> CallContext:
    """Where a call stands. Without a parent the trace id is the call's own UUID, so that one finds the other."""
    parent = parse(received)
    trace_id = parent.trace_id if parent else UUID(call_id).int
    random = parent.flags & RANDOM_TRACE_ID if parent else RANDOM_TRACE_ID
    flags = random | (SAMPLED if sampled else 0)
    server = TraceContext(trace_id, _span_id(call_id, b"server"), flags)
    return CallContext(parent, server, TraceContext(trace_id, _span_id(call_id, b"client"), flags))


def share(call_id: str) -> float:
    """A number in [0, 1) that is the call's own, from the random half of its UUID: nobody outside can choose it."""
    return (UUID(call_id).int & (1 << 56) - 1) / (1 << 56)


def _span_id(call_id: str, role: bytes) -> int:
    return int.from_bytes(blake2b(call_id.encode(), digest_size=8, person=role).digest(), "big") or 1
