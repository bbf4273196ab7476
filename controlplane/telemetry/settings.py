"""What operators may set about metrics, traces and logs. Secrets (collector headers) come by file, never inline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


class LabelCaps(BaseModel, frozen=True, extra="forbid"):
    """How many values of one label become series of their own; the rest are counted together as ``_other``."""

    tenant: int = Field(default=200, ge=1, description="Tenants with series of their own (count).")
    model: int = Field(default=200, ge=1, description="Models with series of their own (count).")
    upstream: int = Field(default=200, ge=1, description="Backends with series of their own (count).")
    reason: int = Field(default=100, ge=1, description="Reasons with series of their own (count).")
    others: int = Field(default=32, ge=1, description="Values of any other label with series of their own (count).")

    def of(self, label: str) -> int:
        return int(getattr(self, label, self.others))


class TracingSettings(BaseModel, frozen=True, extra="forbid"):
    endpoint: str = Field(
        default="", description="Base URL of an OTLP/HTTP collector; empty: the environment's, or no tracing at all."
    )
    headers_file: Path | None = Field(
        default=None, description="File with one `name: value` header a line for the collector; never logged."
    )
    sample_ratio: float = Field(
        default=0.05, ge=0, le=1, description="Share of allowed calls that are kept (ratio); refusals are always kept."
    )
    trust_sampled_flag: bool = Field(
        default=False, description="Whether a caller's sampled flag makes us keep the trace of its call."
    )
    queue_spans: int = Field(default=2048, ge=1, description="Ended spans that may wait for the collector (count).")
    batch_spans: int = Field(default=512, ge=1, description="Spans sent in one request at most (count).")
    delay_s: float = Field(default=5.0, gt=0, description="Longest wait before a batch is sent (seconds).")
    timeout_s: float = Field(default=5.0, gt=0, description="Longest wait for the collector's answer (seconds).")

    def endpoint_or(self, environment: Mapping[str, str] = os.environ) -> str:
        """The collector's base URL, "" when tracing is off; what the file says beats the environment."""
        return (self.endpoint or environment.get(ENDPOINT_VARIABLE, "")).rstrip("/")


class TelemetrySettings(BaseModel, frozen=True, extra="forbid"):
    metrics_host: str = Field(default="127.0.0.1", description="Address that /metrics listens on; not for the public.")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="TCP port of /metrics; 0 takes a free one.")
    label_caps: LabelCaps = Field(default=LabelCaps(), description="Bounds on the number of metric series.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log event that is written."
    )
    tracing: TracingSettings = Field(default=TracingSettings(), description="Where spans go, and how many.")
