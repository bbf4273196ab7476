"""The table, the ratios and what they should be."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gateway.measure import Sample

Results = Mapping[str, Mapping[int, Sample]]
"""By part, by number of connections."""

MANY, ONE = 16, 1
TARGETS = {"c/b": 0.25, "c'/b": 0.5, "c/d": 15.0}
ADDED_P50_LIMIT_MS = 3.0


PAIRS = {
    "c/b": ("gateway", "passthrough"),
    "c'/b": ("without-casbin", "passthrough"),
    "c/d": ("gateway", "litellm"),
    "records/b": ("recorded", "passthrough"),
    "c/records": ("gateway", "recorded"),
}
UNASKED = PAIRS.keys() - TARGETS.keys()
"""Ratios that no target stands against: how much of b is left once the two records of a call are kept, and of that by
everything else that governs."""


def figures(results: Results) -> dict[str, float]:
    """The ratios in requests per second at 16 connections, and the same in requests per second of CPU, which a
    busy machine spoils less; what c adds to the median over b at one connection."""
    many = {name: by_connections[MANY] for name, by_connections in results.items()}
    pairs = {ratio: pair for ratio, pair in PAIRS.items() if many.keys() >= set(pair)}
    found = {ratio: many[over].per_s / many[under].per_s for ratio, (over, under) in pairs.items()}
    found |= {f"{ratio} CPU": many[under].cpu_us / many[over].cpu_us for ratio, (over, under) in pairs.items()}
    found["added_p50_ms"] = results["gateway"][ONE].p50_ms - results["passthrough"][ONE].p50_ms
    return found


def table(titles: Mapping[str, str], results: Results) -> str:
    lines = ["                              conn    req/s    p50 ms    p99 ms   CPU us/req   failed   load"]
    for connections in (ONE, MANY):
        for name, by_connections in results.items():
            s = by_connections[connections]
            lines.append(
                f"{titles[name]:<30}{connections:>4} {s.per_s:>8,.0f} {s.p50_ms:>9.2f} {s.p99_ms:>9.2f}"
                f" {s.cpu_us:>12,.0f} {s.failed:>8} {s.load:>6.2f}"
            )
    return "\n".join(lines)


def verdicts(found: Mapping[str, float]) -> str:
    lines = [
        f"{name:<14}{found[name]:>8.2f}   wanted at least {target:g}: {'met' if found[name] >= target else 'NOT met'}"
        for name, target in TARGETS.items()
        if name in found
    ]
    lines += [f"{name:<14}{value:>8.2f}" for name, value in found.items() if name in UNASKED or name.endswith("CPU")]
    added = found["added_p50_ms"]
    met = "met" if added <= ADDED_P50_LIMIT_MS else "NOT met"
    return "\n".join([*lines, f"{'added p50 ms':<14}{added:>8.2f}   wanted at most {ADDED_P50_LIMIT_MS:g}: {met}"])


def document(results: Results, found: Mapping[str, float], about: Mapping[str, Any]) -> dict[str, Any]:
    listed = {name: {str(n): asdict(sample) for n, sample in by.items()} for name, by in results.items()}
    return {"machine": machine(), **about, "results": listed, "ratios": dict(found)}


def machine() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []
