"""Spans over a real OTLP/HTTP exporter into a receiver that parses the real protobuf."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from controlplane.calls import new_call_id
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.settings import TracingSettings
from controlplane.telemetry.tracing import EndedCall, Tracing, build_tracing

RECEIVED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT = EndedCall(
    call_id=new_call_id(),
    tenant="acme",
    door="openai",
    resource="/model/small",
    operation="chat",
    effect="allow",
    reason="rule_allowed",
    revision="ab" * 32,
    ledger_index=7,
    arrived_s=100.0,
    admitted_s=100.002,
    first_byte_s=100.5,
    ended_s=101.0,
    traceparent=RECEIVED,
    rules=("support.chat",),
    outcome="ok",
    http_status=200,
    streams=True,
    served_by="small/3",
    rung="primary",
    input_tokens=12,
    output_tokens=34,
)
REFUSED = replace(CHAT, effect="deny", reason="rule_denied", outcome="refused", admitted_s=None, http_status=403)


@dataclass
class Collector:
    """A collector with memory: a real OTLP/HTTP protobuf receiver on a free loopback port."""

    endpoint: str = ""
    status: int = 200
    received: list[ResourceSpans] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # requests wait for it

    @property
    def spans(self) -> list[Span]:
        return [span for resource in self.received for scope in resource.scope_spans for span in scope.spans]

    def span(self, kind: int) -> Span:
        (found,) = (span for span in self.spans if span.kind == kind)
        return found


def attributes_of(span: Span | Span.Event) -> dict[str, object]:
    values = {}
    for pair in span.attributes:
        which = pair.value.WhichOneof("value") or ""
        value = getattr(pair.value, which)
        values[pair.key] = [v.string_value for v in value.values] if which == "array_value" else value
    return values


@contextmanager
def running_collector() -> Generator[Collector]:
    collector = Collector()
    collector.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.gate.wait(10)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if collector.status == 200:
                collector.received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        collector.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def collector() -> Generator[Collector]:
    with running_collector() as running:
        yield running


def tracing_to(endpoint: str, metrics: Metrics | None = None, **settings: object) -> Tracing:
    chosen = TracingSettings.model_validate({"endpoint": endpoint, "sample_ratio": 1.0} | settings)
    tracing = build_tracing(chosen, metrics or Metrics(), component="gateway", version="1.2.3", environment={})
    assert tracing.is_on
    return tracing


def dropped(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("controlplane_trace_spans_dropped_total", {"reason": reason}) or 0


def test_a_call_is_a_server_span_with_a_client_span_under_it(collector: Collector) -> None:
    tracing = tracing_to(collector.endpoint)
    sent_upstream = tracing.traceparent_for(CHAT.call_id, RECEIVED)
    tracing.record(CHAT)
    tracing.close()
    server, client = collector.span(Span.SPAN_KIND_SERVER), collector.span(Span.SPAN_KIND_CLIENT)
    assert server.trace_id.hex() == client.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert server.parent_span_id.hex() == "b7ad6b7169203331"
    assert client.parent_span_id == server.span_id
    assert sent_upstream == f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"
    assert server.start_time_unix_nano < client.start_time_unix_nano < client.end_time_unix_nano
    assert client.end_time_unix_nano == server.end_time_unix_nano
    assert client.end_time_unix_nano - client.start_time_unix_nano == pytest.approx(0.998e9)


def test_names_follow_the_pinned_conventions(collector: Collector) -> None:
    """Golden: whoever changes a name or the revision changes this."""
    tracing = tracing_to(collector.endpoint)
    tracing.record(CHAT)
    tracing.close()
    (resource,) = collector.received
    assert {p.key: p.value.string_value for p in resource.resource.attributes}["service.name"] == "controlplane-gateway"
    assert resource.scope_spans[0].schema_url == "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
    server, client = collector.span(Span.SPAN_KIND_SERVER), collector.span(Span.SPAN_KIND_CLIENT)
    assert server.name == client.name == "chat small"
    assert attributes_of(server) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "small",
        "controlplane.call.id": CHAT.call_id,
        "controlplane.tenant": "acme",
        "controlplane.door": "openai",
        "controlplane.resource": "/model/small",
        "controlplane.outcome": "ok",
        "controlplane.ledger.index": 7,
        "controlplane.fallback.rung": "primary",
        "http.response.status_code": 200,
    }
    assert attributes_of(client) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small/3",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.498),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "http.response.status_code": 200,
        "controlplane.call.id": CHAT.call_id,
    }
    (event,) = server.events
    assert event.name == "controlplane.policy.decision"
    assert attributes_of(event) == {
        "controlplane.policy.verdict": "allow",
        "controlplane.policy.action": "allow",
        "controlplane.policy.reason": "rule_allowed",
        "controlplane.policy.revision": "ab" * 32,
        "controlplane.policy.rule.id": ["support.chat"],
    }


@pytest.mark.parametrize(
    ("resource", "operation", "name", "attributes"),
    [
        (
            "/mcp/time/get_time",
            "tools/call",
            "tools/call get_time",
            {
                "mcp.method.name": "tools/call",
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "get_time",
            },
        ),
        ("/mcp/time", "tools/list", "tools/list", {"mcp.method.name": "tools/list"}),
        (
            "/tool/refund",
            "call",
            "execute_tool refund",
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "refund",
                "gen_ai.tool.type": "function",
            },
        ),
        ("/model/risk", "Predict", "Predict risk", {"gen_ai.request.model": "risk"}),
        (
            "/model/small",
            "completions",
            "text_completion small",
            {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": "small"},
        ),
    ],
)
def test_every_kind_of_call_has_its_name(
    collector: Collector, resource: str, operation: str, name: str, attributes: dict[str, str]
) -> None:
    tracing = tracing_to(collector.endpoint)
    tracing.record(replace(CHAT, resource=resource, operation=operation))
    tracing.close()
    server = collector.span(Span.SPAN_KIND_SERVER)
    assert server.name == name
    found = attributes_of(server)
    assert {key: value for key, value in found.items() if key.startswith(("gen_ai.", "mcp."))} == attributes


def test_refusals_and_failures_are_always_kept_and_of_the_rest_none(collector: Collector) -> None:
    tracing = tracing_to(collector.endpoint, sample_ratio=0)
    failed = replace(CHAT, outcome="timeout", error="deadline")
    for call in [CHAT] * 5 + [REFUSED] * 3 + [failed]:
        tracing.record(replace(call, call_id=new_call_id()))
    tracing.close()
    servers = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert len(servers) == 4
    assert [attributes_of(span).get("error.type") for span in servers] == [None, None, None, "deadline"]
    assert [attributes_of(span.events[0])["controlplane.policy.action"] for span in servers] == ["block"] * 3 + [
        "allow"
    ]


def test_a_refused_call_has_no_client_span(collector: Collector) -> None:
    tracing = tracing_to(collector.endpoint)
    tracing.record(REFUSED)
    tracing.close()
    assert [span.kind for span in collector.spans] == [Span.SPAN_KIND_SERVER]


def test_a_share_of_the_allowed_is_kept_and_the_flag_upstream_says_which() -> None:
    tracing = tracing_to("http://127.0.0.1:9", sample_ratio=0.25)
    calls = [replace(CHAT, call_id=new_call_id()) for _ in range(1000)]
    kept = [call for call in calls if tracing.keeps(call)]
    assert 150 < len(kept) < 350
    for call in calls:
        flags = int(tracing.traceparent_for(call.call_id, RECEIVED)[-2:], 16)
        assert bool(flags & 1) == tracing.keeps(call)
    tracing.close()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_callers_sampled_flag_counts_only_when_trusted(trusted: bool) -> None:
    tracing = tracing_to("http://127.0.0.1:9", sample_ratio=0, trust_sampled_flag=trusted)
    assert tracing.keeps(CHAT) is trusted
    tracing.close()


def test_spans_the_collector_refuses_are_counted(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    collector.status = 400
    tracing = tracing_to(collector.endpoint, metrics)
    with caplog.at_level(logging.CRITICAL):
        tracing.record(CHAT)
        tracing.close()
    assert dropped(metrics, "export_failed") == 2


def test_spans_over_the_queue_are_counted(collector: Collector) -> None:
    metrics = Metrics()
    collector.gate.clear()  # the collector answers nobody for now
    tracing = tracing_to(collector.endpoint, metrics, queue_spans=4, batch_spans=4, delay_s=60)
    for _ in range(50):
        tracing.record(REFUSED)
    collector.gate.set()
    tracing.close()
    assert len(collector.spans) + dropped(metrics, "queue_full") == 50
    assert dropped(metrics, "queue_full") >= 42  # four on their way, four waiting


def test_a_collector_that_is_not_there_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    tracing = tracing_to("http://127.0.0.1:9", metrics, timeout_s=0.2)
    with caplog.at_level(logging.CRITICAL):
        tracing.record(CHAT)
        tracing.close()
    assert dropped(metrics, "export_failed") == 2


class BrokenWriter:
    def write(self, *_: object) -> None:
        raise RuntimeError("broken")

    def close(self) -> None:
        raise RuntimeError("broken")


def test_a_broken_writer_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    tracing = Tracing(TracingSettings(sample_ratio=1), metrics, BrokenWriter())
    tracing.record(CHAT)
    tracing.close()
    assert tracing.traceparent_for("not a uuid", RECEIVED) == ""
    assert metrics.registry.get_sample_value("controlplane_telemetry_failures_total", {"part": "tracing"}) == 3
    assert len(caplog.records) == 1


def test_tracing_that_cannot_be_set_up_is_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = TracingSettings(endpoint="http://127.0.0.1:9", headers_file=tmp_path / "missing")
    tracing = build_tracing(settings, Metrics(), component="gateway", version="1", environment={})
    assert not tracing.is_on
    assert "telemetry broke" in caplog.text


def test_headers_for_the_collector_come_from_a_file(collector: Collector, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer abc\n\nX-Scope: a:b\n")
    tracing = tracing_to(collector.endpoint, headers_file=file)
    tracing.record(CHAT)
    tracing.close()
    assert collector.headers[0]["authorization"] == "Bearer abc"
    assert collector.headers[0]["x-scope"] == "a:b"


def test_off_unless_a_collector_is_named() -> None:
    metrics, settings = Metrics(), TracingSettings()
    off = build_tracing(settings, metrics, component="gateway", version="1", environment={})
    assert not off.is_on
    off.record(CHAT)
    off.close()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    on = build_tracing(settings, metrics, component="gateway", version="1", environment=environment)
    assert on.is_on
    on.close()


def test_while_off_a_callers_context_passes_through_if_it_is_well_formed() -> None:
    off = Tracing(TracingSettings(), Metrics())
    assert off.traceparent_for(CHAT.call_id, RECEIVED) == RECEIVED
    assert off.trace_id_of(CHAT.call_id, RECEIVED) == "0af7651916cd43dd8448eb211c80319c"
    assert off.traceparent_for(CHAT.call_id, "nonsense\r\nx: y") == ""
    assert off.trace_id_of(CHAT.call_id, "") == ""


def test_while_off_the_sdk_is_not_even_imported() -> None:
    program = (
        "import sys; from controlplane.telemetry.metrics import Metrics; "
        "from controlplane.telemetry.settings import TracingSettings; from controlplane.telemetry import tracing; "
        "tracing.build_tracing(TracingSettings(), Metrics(), component='g', version='1', environment={}); "
        "print(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
