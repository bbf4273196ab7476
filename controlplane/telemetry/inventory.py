"""How a metric is declared, told and listed. Plain values come in; no room's types are known here.

Names start with ``controlplane_``, units are base units, labels are bounded (see ``labels.py``) and never carry a call,
a session or a subject. A refusal is not a failure: it has its own outcome. Fails open: no method raises; what broke is
counted and logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import anyio.to_thread
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from controlplane.telemetry.labels import Family, LabelBounds
from controlplane.telemetry.series import Count, Counter, Gauge, Histogram, Labelled, Level, S, Spread
from controlplane.telemetry.settings import LabelCaps

log = logging.getLogger(__name__)

PREFIX = "controlplane_"

P = ParamSpec("P")
M = TypeVar("M", bound="Inventory")


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What one metric is; ``name`` is the exposed name, with ``_total`` for a counter."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str

    def samples(self) -> dict[str, frozenset[str]]:
        """The names of the series it exposes, each with its labels."""
        labels = frozenset(self.labels)
        if self.type != "histogram":
            return {self.name: labels}
        return {f"{self.name}_bucket": labels | {"le"}, f"{self.name}_sum": labels, f"{self.name}_count": labels}


def fails_open(observe: Callable[Concatenate[M, P], None]) -> Callable[Concatenate[M, P], None]:
    """What is told on every call writes this out instead: being wrapped costs as much as an observation."""

    @wraps(observe)
    def guarded(self: M, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            observe(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever breaks in here must not break a call
            self.broke("metrics", error)

    return guarded


class Inventory:
    """The metrics of one process on a registry of their own; what telemetry loses itself is among them."""

    def __init__(self, component: str, version: str, caps: LabelCaps) -> None:
        self.registry = CollectorRegistry()
        self._inventory: dict[str, MetricInfo] = {}
        self._complained: set[str] = set()
        self._bounds = LabelBounds(caps.of, self._overflowed)
        ProcessCollector(registry=self.registry)
        self._declare_telemetry()
        self._build_info.child(component, version).set(1)

    def inventory(self) -> dict[str, MetricInfo]:
        """Every metric of the product by its exposed name."""
        return dict(self._inventory)

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Body and content type for a scrape, in the format that ``accept`` asks for; rendered in a thread."""
        encode, content_type = choose_encoder(accept)
        return await anyio.to_thread.run_sync(encode, self.registry), content_type

    def _declare_telemetry(self) -> None:
        self._overflow = self._counter(
            "metric_label_overflow_total", "Observations whose label value was over its cap.", "label"
        )
        self._broken = self._counter(
            "telemetry_failures_total", "Observations lost because telemetry itself broke.", "part"
        )
        self._spans_dropped = self._counter(
            "trace_spans_dropped_total", "Spans that never reached the collector.", "reason"
        )
        self._build_info = self._gauge("build_info", "Always 1; which build this is.", "component", "version")

    @fails_open
    def observe_spans_dropped(self, count: int, *, reason: str) -> None:
        self._spans_dropped.child(reason).inc(count)

    def broke(self, part: str, error: Exception) -> None:
        """A part of telemetry broke: count it, say so once, and go on."""
        with suppress(Exception):  # then not even the counter works, and the log line is what is left
            self._broken.child(part).inc()
        if part not in self._complained:
            self._complained.add(part)
            log.error("telemetry broke; calls go on", extra={"part": part, "error": repr(error)})

    def _overflowed(self, label: str) -> None:
        self._overflow.child(label).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Family[Count]:
        return self._declared("counter", Counter(PREFIX + name, text, labels))

    def _gauge(self, name: str, text: str, *labels: str) -> Family[Level]:
        return self._declared("gauge", Gauge(PREFIX + name, text, labels))

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Family[Spread]:
        return self._declared("histogram", Histogram(PREFIX + name, text, labels, buckets))

    def _declared(self, kind: str, metric: Labelled[S]) -> Family[S]:
        labels = tuple(metric.label_names)
        self._inventory[metric.name] = MetricInfo(metric.name, kind, labels, metric.text)
        self.registry.register(metric)
        return Family(metric, labels, self._bounds)
