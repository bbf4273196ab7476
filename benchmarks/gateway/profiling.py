"""Where the time of a governed call goes: py-spy's samples of the gateway under load, by the step they fall into."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.gateway.measure import command
from benchmarks.gateway.parts import Part
from benchmarks.gateway.world import World

STEPS = (
    ("casbin", ("/casbin/", "simpleeval", "controlplane/policy/enforcer")),
    ("policy snapshot, conditions", ("controlplane/policy/snapshot", "controlplane/policy/conditions")),
    ("policy, the rest", ("controlplane/policy/",)),
    ("identity", ("controlplane/identity/",)),
    (
        "ledger, writer in a thread",
        ("audit/writing/writer", "audit/writing/thread", "audit/store", "audit/merkle", "audit/checkpoint"),
    ),
    ("ledger, callers' side", ("audit/", "gateway/recorder", "gateway/metered_ledger")),
    ("metrics, traces, drift", ("controlplane/telemetry/", "prometheus_client", "gateway/meter", "gateway/tracer")),
    ("metrics, traces, drift", ("gateway/observers", "controlplane/observations")),
    ("obligations", ("gateway/obligations", "gateway/discharges", "controlplane/limits")),
    ("breaker, ladder, dispatch", ("controlplane/resilience/", "gateway/models", "gateway/dispatch", "fleet")),
    ("HTTP client", ("/aiohttp/", "inference/", "/yarl/", "/multidict/")),
    ("HTTP server", ("/uvicorn/", "/httptools/")),
    ("routing, requests", ("/starlette/", "gateway/hygiene")),
    ("cancellation scopes", ("/anyio/",)),
    ("gateway and doors", ("controlplane/",)),
)
OTHER = "event loop and kernel"
RATE_HZ = 250


def profile(world: World, part: Part, seconds: float) -> dict[str, float]:
    """Share of the samples by step. py-spy stops the process for each sample, so only shares mean something."""
    spy = Path(sys.executable).with_name("py-spy")
    found = str(spy) if spy.exists() else shutil.which("py-spy")
    if found is None:
        raise SystemExit("py-spy is not installed (pip install py-spy)")
    raw = world.folder / "stacks.txt"
    with subprocess.Popen(
        command(world, part, 16, seconds + 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as load:
        spying = [found, "record", "--threads", "--format", "raw", "--full-filenames", "--rate", str(RATE_HZ)]
        spying += ["--duration", f"{seconds:g}", "--output", str(raw), "--pid", str(part.process.pid)]
        subprocess.run(spying, check=True, capture_output=True)
        load.wait()
    return shares(raw.read_text("utf-8"))


def shares(stacks: str) -> dict[str, float]:
    counted: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counted[step_of(frames.split(";"))] += int(count)
    total = sum(counted.values())
    return {step: count / total for step, count in counted.most_common()}


def step_of(frames: list[str]) -> str:
    """The step of the innermost frame that belongs to one: what a library does is its caller's."""
    for frame in reversed(frames):
        for step, markers in STEPS:
            if any(marker in frame for marker in markers):
                return step
    return OTHER
