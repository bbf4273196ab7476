"""Spans of ended calls, written with the OpenTelemetry SDK and sent over OTLP/HTTP from a thread of their own.

Imported only when tracing is on. Every span that does not reach the collector is counted with its reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from controlplane.telemetry import semconv
from controlplane.telemetry.context import RANDOM_TRACE_ID, CallContext, TraceContext
from controlplane.telemetry.settings import TracingSettings
from controlplane.telemetry.tracing import Counts, EndedCall

NANO = 1_000_000_000
MILLI = 1_000
TRACES_PATH = "/v1/traces"

Attributes = dict[str, str | int | float | bool | Sequence[str]]


class OtlpSpanWriter:
    def __init__(self, endpoint: str, settings: TracingSettings, counts: Counts, component: str, version: str) -> None:
        exporter = OTLPSpanExporter(
            endpoint=endpoint + TRACES_PATH,
            headers=headers_in(settings.headers_file),
            timeout=settings.timeout_s,
        )
        self._ids = GivenIds()
        resource = Resource.create({"service.name": f"controlplane-{component}", "service.version": version})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(CountedProcessor(exporter, settings, counts))
        self._tracer = self._provider.get_tracer("controlplane", version, schema_url=semconv.SCHEMA_URL)

    def write(self, call: EndedCall, context: CallContext) -> None:
        subject = semconv.subject_of(call.resource, call.operation)
        offset_ns = time.time_ns() - time.monotonic_ns()
        started_ns, ended_ns = (round(instant * NANO) + offset_ns for instant in (call.arrived_s, call.ended_s))
        server = self._span(SpanKind.SERVER, context.server, context.parent, subject, started_ns)
        server.set_attributes({**about_call(call), **call.attributes})
        if call.admitted_s is None:
            server.add_event(semconv.POLICY_EVENT, about_policy(call), ended_ns)
        else:
            admitted_ns = round(call.admitted_s * NANO) + offset_ns
            server.add_event(semconv.POLICY_EVENT, about_policy(call), admitted_ns)
            client = self._span(SpanKind.CLIENT, context.client, context.server, subject, admitted_ns)
            client.set_attributes({**about_exchange(call), **call.attributes})
            mark_failure(client, call)
            client.end(ended_ns)
            mark_failure(server, call)
        server.end(ended_ns)

    def close(self) -> None:
        self._provider.shutdown()

    def _span(
        self, kind: SpanKind, at: TraceContext, under: TraceContext | None, subject: semconv.Subject, start_ns: int
    ) -> Span:
        self._ids.give(at)
        parent = Context()
        if under is not None:
            is_remote = kind is SpanKind.SERVER
            flags = TraceFlags(under.flags)
            remote = SpanContext(under.trace_id, under.span_id, is_remote=is_remote, trace_flags=flags)
            parent = set_span_in_context(NonRecordingSpan(remote), parent)
        return self._tracer.start_span(subject.name, parent, kind, subject.attributes, start_time=start_ns)


class GivenIds(IdGenerator):
    """Hands out the ids that were given last, in the same thread: ours follow from the call and were sent upstream."""

    def __init__(self) -> None:
        self._given = threading.local()

    def give(self, at: TraceContext) -> None:
        self._given.at = at

    def generate_span_id(self) -> int:
        return int(self._given.at.span_id)

    def generate_trace_id(self) -> int:
        return int(self._given.at.trace_id)

    def is_trace_id_random(self) -> bool:
        return bool(self._given.at.flags & RANDOM_TRACE_ID)


class CountedProcessor(BatchSpanProcessor):
    """A bounded queue in front of the collector that counts what it has to drop: the newest when it is full."""

    def __init__(self, exporter: SpanExporter, settings: TracingSettings, counts: Counts) -> None:
        self._room, self._counts = threading.Semaphore(settings.queue_spans), counts
        super().__init__(
            CountedExporter(exporter, self._room, counts),
            max_queue_size=settings.queue_spans,
            schedule_delay_millis=settings.delay_s * MILLI,
            max_export_batch_size=min(settings.batch_spans, settings.queue_spans),
        )

    def on_end(self, span: ReadableSpan) -> None:
        if self._room.acquire(blocking=False):
            super().on_end(span)
        else:
            self._counts.observe_spans_dropped(1, reason="queue_full")


class CountedExporter(SpanExporter):
    def __init__(self, inner: SpanExporter, room: threading.Semaphore, counts: Counts) -> None:
        self._inner, self._room, self._counts = inner, room, counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the processor's thread. Room is given back first: the queue no longer holds these spans."""
        self._room.release(len(spans))
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001  whatever an exporter raises, spans are lost and nothing else
            self._counts.broke("tracing", error)
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._counts.observe_spans_dropped(len(spans), reason="export_failed")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


def headers_in(file: Path | None) -> dict[str, str] | None:
    if file is None:
        return None
    pairs = (line.partition(":") for line in file.read_text("utf-8").splitlines() if line.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def about_call(call: EndedCall) -> Attributes:
    attributes: Attributes = {
        semconv.CALL_ID: call.call_id,
        semconv.TENANT: call.tenant,
        semconv.DOOR: call.door,
        semconv.RESOURCE: call.resource,
        semconv.OUTCOME: call.outcome,
        semconv.LEDGER_INDEX: call.ledger_index,
    }
    if call.rung:
        attributes[semconv.RUNG] = call.rung
    if call.http_status:
        attributes[semconv.HTTP_STATUS] = call.http_status
    return attributes


def about_policy(call: EndedCall) -> Attributes:
    attributes: Attributes = {
        semconv.POLICY_VERDICT: call.effect,
        semconv.POLICY_ACTION: "allow" if call.effect == "allow" else "block",
        semconv.POLICY_REASON: call.reason,
        semconv.POLICY_REVISION: call.revision,
    }
    if call.rules:
        attributes[semconv.POLICY_RULE] = call.rules
    return attributes


def about_exchange(call: EndedCall) -> Attributes:
    attributes: Attributes = {semconv.CALL_ID: call.call_id}
    if call.http_status:
        attributes[semconv.HTTP_STATUS] = call.http_status
    if call.served_by:
        attributes[semconv.GEN_AI_RESPONSE_MODEL] = call.served_by
    if call.streams:
        attributes[semconv.GEN_AI_REQUEST_STREAM] = True
    if call.streams and call.first_byte_s is not None and call.admitted_s is not None:
        attributes[semconv.GEN_AI_FIRST_CHUNK] = call.first_byte_s - call.admitted_s
    if call.input_tokens is not None:
        attributes[semconv.GEN_AI_INPUT_TOKENS] = call.input_tokens
    if call.output_tokens is not None:
        attributes[semconv.GEN_AI_OUTPUT_TOKENS] = call.output_tokens
    return attributes


def mark_failure(span: Span, call: EndedCall) -> None:
    if call.outcome in {"error", "timeout"}:
        span.set_attribute(semconv.ERROR_TYPE, call.error or call.outcome)
        span.set_status(Status(StatusCode.ERROR))
