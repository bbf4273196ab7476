"""One trace of a call: a SERVER span for the gateway's part and, when the call went out, a CLIENT span under it.

Spans are made when the call has ended, from plain values, so a call that is not kept costs next to nothing, and whether
to keep it can depend on how it ended: refusals and failures always are, of the rest a share. Off unless a collector is
named. Fails open: no method raises; what is lost is counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.telemetry.context import SAMPLED, CallContext, is_well_formed, parse, place, share
from controlplane.telemetry.settings import TracingSettings


class Counts(Protocol):
    """Where losses are counted (``Metrics``)."""

    def observe_spans_dropped(self, count: int, *, reason: str) -> None: ...
    def broke(self, part: str, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedCall:
    """What a trace says about a call. Instants are monotonic seconds; bodies and arguments are not in it."""

    call_id: str
    tenant: str
    door: str
    resource: str
    operation: str
    effect: str
    reason: str
    revision: str
    ledger_index: int
    arrived_s: float
    ended_s: float
    admitted_s: float | None = None  # None: it never went out
    first_byte_s: float | None = None
    traceparent: str = ""  # as received
    rules: tuple[str, ...] = ()
    outcome: str = "refused"
    error: str = ""
    http_status: int = 0
    streams: bool = False
    served_by: str = ""
    rung: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    attributes: Mapping[str, str | int] = field(default_factory=dict)  # more, under the conventions' names

    @property
    def is_remarkable(self) -> bool:
        return self.effect != "allow" or self.outcome in {"error", "timeout"}


class SpanWriter(Protocol):
    def write(self, call: EndedCall, context: CallContext) -> None: ...
    def close(self) -> None:
        """Send what is waiting; blocks."""
        ...


class Tracing:
    """Where calls stand in traces, and the spans of those that are kept."""

    def __init__(self, settings: TracingSettings, counts: Counts, writer: SpanWriter | None = None) -> None:
        """Without ``writer`` tracing is off: the caller's context is passed on and nothing is recorded."""
        self.settings, self._counts, self._writer = settings, counts, writer

    @property
    def is_on(self) -> bool:
        return self._writer is not None

    def traceparent_for(self, call_id: str, received: str) -> str:
        """What goes upstream with the call: a new child. While tracing is off: what came, if it is well formed."""
        if self._writer is None:
            return received if received and is_well_formed(received) else ""
        try:
            return self._place(call_id, received).client.header()
        except ValueError as error:  # no UUID
            self._counts.broke("tracing", error)
            return ""

    def trace_id_of(self, call_id: str, received: str) -> str:
        """For log lines: 32 hex digits, "" when there is no trace."""
        header = self.traceparent_for(call_id, received)
        return header[3:35]

    def keeps(self, call: EndedCall) -> bool:
        return self._writer is not None and (call.is_remarkable or self._samples(call.call_id, call.traceparent))

    def record(self, call: EndedCall) -> None:
        """Hand over the spans of an ended call, if it is kept. May be lost."""
        if self._writer is None:
            return
        try:
            if self.keeps(call):
                self._writer.write(call, self._place(call.call_id, call.traceparent))
        except Exception as error:  # noqa: BLE001  a trace must not break a call
            self._counts.broke("tracing", error)

    def close(self) -> None:
        """Send what is waiting. Blocks for as long as the collector takes to answer: call it in a thread."""
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:  # noqa: BLE001  as above
            self._counts.broke("tracing", error)

    def _samples(self, call_id: str, received: str) -> bool:
        if self.settings.trust_sampled_flag:
            parent = parse(received)
            if parent is not None and parent.flags & SAMPLED:
                return True
        return share(call_id) < self.settings.sample_ratio

    def _place(self, call_id: str, received: str) -> CallContext:
        return place(call_id, received, sampled=self._samples(call_id, received))


def build_tracing(
    settings: TracingSettings,
    counts: Counts,
    *,
    component: str,
    version: str,
    environment: Mapping[str, str] = os.environ,
) -> Tracing:
    """Tracing as configured; off when no collector is named or when it cannot be set up (which is counted)."""
    endpoint = settings.endpoint_or(environment)
    if not endpoint:
        return Tracing(settings, counts)
    try:
        from controlplane.telemetry.spans import OtlpSpanWriter  # noqa: PLC0415  the SDK costs time when off

        return Tracing(settings, counts, OtlpSpanWriter(endpoint, settings, counts, component, version))
    except Exception as error:  # noqa: BLE001  a collector's trouble must not keep the gateway from starting
        counts.broke("tracing", error)
        return Tracing(settings, counts)
