"""Running wrk against a part, and what its runs come to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.gateway.parts import Part
from benchmarks.gateway.world import World


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk. ``cpu_us`` is CPU time of the part per request; ``load`` the machine's when the run ended."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    load: float


def command(world: World, part: Part, connections: int, seconds: float) -> list[str]:
    script = str(world.folder / f"{part.script}.lua")
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", script, part.url]


def run_wrk(world: World, part: Part, connections: int, seconds: float) -> Sample:
    before = part.cpu_s()
    done = subprocess.run(command(world, part, connections, seconds), check=True, capture_output=True, text=True).stderr
    cpu_s = part.cpu_s() - before
    said: dict[str, Any] = json.loads(done[done.index("{") :])
    count = said["requests"]
    return Sample(
        requests=count,
        per_s=count / said["seconds"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        failed=said["failed"],
        cpu_us=cpu_s / max(count, 1) * 1e6,
        load=os.getloadavg()[0],
    )


def middle(samples: Sequence[Sample]) -> Sample:
    """The median of every figure, each on its own; failures and requests are summed."""
    columns = {name: [asdict(sample)[name] for sample in samples] for name in asdict(samples[0])}
    medians = {name: median(values) for name, values in columns.items()}
    return Sample(**medians | {"requests": sum(columns["requests"]), "failed": sum(columns["failed"])})
