"""What a row is made of, and the queries that many panels ask alike."""

from __future__ import annotations

from dataclasses import dataclass

RATE = "[$__rate_interval]"
TENANT = 'tenant=~"$tenant"'
IS_GATEWAY = 'on (job, instance) controlplane_build_info{component="gateway"}'


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]  # (PromQL, legend)
    kind: str = "timeseries"
    width: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, *by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}{RATE}))"


def quantiles(histogram: str, *by: str, where: str = "") -> tuple[tuple[str, str], ...]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    buckets = rate(f"{histogram}_bucket", "le", *by, where=where)
    return tuple(
        (f"histogram_quantile({q}, {buckets})", f"p{round(q * 100)} {legend}".strip()) for q in (0.5, 0.95, 0.99)
    )
