"""From the moment a server freezes to the last call that is sent there.

    python -m benchmarks.inference freeze [--real]

A frozen server answers its health page, says that nothing runs, and never answers a call. Simulated: one of four
servers freezes under 1, 10 and 100 calls a second, for a router that only takes turns, and for ours. ``--real`` adds a
vLLM of which the worker is stopped (SIGSTOP), beside a simulated one in real time. What fails with ours are streams
that had begun: nobody can move those.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from benchmarks.inference.agents import Asked, Seen, completion, timed
from benchmarks.inference.routing import RoundRobin
from benchmarks.inference.simulator import GPU, SimulatedVllm
from benchmarks.inference.tiny_vllm import TinyVllm, is_installed
from benchmarks.inference.virtual_time import run
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError
from inference.openai_http.load import VllmLoad
from inference.openai_http.probe import OneToken
from inference.openai_http.settings import VllmSettings
from inference.routing import LoadSource, Probe, ReplicaPool, Transition
from inference.vllm import VllmBackend

SETTLE_S, WATCHED_S, TIMEOUT_S = 10.0, 40.0, 20.0
RATES = (1.0, 10.0, 100.0)


@dataclass
class Noting:
    """Remembers when it was asked."""

    inner: Backend
    asked_s: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked_s.append(asyncio.get_running_loop().time())
        async with self.inner.send(request) as reply:
            yield reply


@dataclass(frozen=True)
class Outcome:
    last_call_s: float
    caught: int
    failed: int
    longest_s: float
    ejected_s: float | None

    def line(self, name: str) -> str:
        ejected = "never" if self.ejected_s is None else f"{self.ejected_s:.1f} s"
        return f"{name:36}{self.last_call_s:8.2f} s{self.caught:10}{self.failed:9}{self.longest_s:10.1f} s{ejected:>10}"


@dataclass
class Simulated:
    """A simulated server that answers requests nobody has told it of."""

    server: SimulatedVllm
    asked: dict[str, Asked]

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked[request.call_id] = Asked("hello", 0, 16, 24)
        async with asyncio.timeout(request.timeout_s), self.server.send(request) as reply:
            yield reply

    async def probe(self) -> None:
        async with self.send(completion("probe", "hello", 1)):
            pass


async def frozen(
    backend: Backend, patient: Noting, freeze: asyncio.Event, per_s: float, transitions: Sequence[Transition] = ()
) -> Outcome:
    """Callers come at a steady rate and do not wait for each other; ``freeze`` is set after a while."""
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[Seen | None]]()
    began_s, frozen_s = loop.time(), float("inf")
    while loop.time() < began_s + SETTLE_S + WATCHED_S:
        if frozen_s == float("inf") and loop.time() >= began_s + SETTLE_S:
            freeze.set()
            frozen_s = loop.time()
        request = replace(completion(f"call-{len(tasks)}", "hello", 24), timeout_s=TIMEOUT_S)
        tasks.append(asyncio.create_task(_span_of(backend, request)))
        await asyncio.sleep(1 / per_s)
    spans = await asyncio.gather(*tasks)
    late = [at_s - frozen_s for at_s in patient.asked_s if at_s >= frozen_s]
    ejected = [one.at_s - frozen_s for one in transitions if one.after == "ejected"]
    answered = [one.whole_s for one in spans if one is not None]
    return Outcome(max(late, default=0.0), len(late), spans.count(None), max(answered), ejected[0] if ejected else None)


async def _span_of(backend: Backend, request: BackendRequest) -> Seen | None:
    with suppress(BackendError, TimeoutError):
        return await timed(backend, request)
    return None


async def _simulated(per_s: float, *, ours: bool) -> Outcome:
    asked: dict[str, Asked] = {}
    servers = [Simulated(SimulatedVllm(f"r{number}", GPU, asked), asked) for number in range(4)]
    patient, freeze, transitions = Noting(servers[0]), asyncio.Event(), list[Transition]()
    replicas: dict[str, Backend] = {"r0": patient} | {f"r{n}": servers[n] for n in range(1, 4)}
    tasks = [asyncio.create_task(one.server.run()) for one in servers]
    tasks.append(asyncio.create_task(_when(freeze, servers[0].server)))
    backend: Backend = RoundRobin(list(replicas.values()))
    if ours:
        probes: dict[str, Probe] = {f"r{n}": one.probe for n, one in enumerate(servers)}
        loads: dict[str, LoadSource] = {f"r{n}": one.server.load for n, one in enumerate(servers)}
        backend = pool = ReplicaPool(replicas, probes=probes, loads=loads)
        pool.listen(transitions.append)
        tasks.append(asyncio.create_task(pool.watch()))
    try:
        return await frozen(backend, patient, freeze, per_s, transitions)
    finally:
        await _stopped(tasks)


async def _real(server: TinyVllm, per_s: float) -> Outcome:
    asked: dict[str, Asked] = {}
    well = Simulated(SimulatedVllm("well", GPU, asked), asked)
    settings = VllmSettings.model_validate({"base_url": f"{server.origin}/v1"})
    real, load = VllmBackend(settings), VllmLoad(settings)
    patient, freeze, transitions = Noting(real), asyncio.Event(), list[Transition]()
    probes: Mapping[str, Probe] = {"patient": OneToken(real, "tiny"), "well": well.probe}
    loads: Mapping[str, LoadSource] = {"patient": load, "well": well.server.load}
    pool = ReplicaPool({"patient": patient, "well": well}, probes=probes, loads=loads)
    pool.listen(transitions.append)
    tasks = [asyncio.create_task(one) for one in (well.server.run(), pool.watch(), _when(freeze, server))]
    try:
        return await frozen(pool, patient, freeze, per_s, transitions)
    finally:
        server.thaw()
        await _stopped(tasks)
        await real.aclose()
        await load.aclose()


async def _when(freeze: asyncio.Event, server: SimulatedVllm | TinyVllm) -> None:
    await freeze.wait()
    server.freeze()


async def _stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="freeze", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", action="store_true", help="also freeze a real vLLM (needs .venv-vllm)")
    options = parser.parse_args(arguments)
    print(f"{'':36}{'last call':>10}{'caught':>10}{'failed':>9}{'longest':>12}{'ejected':>10}")
    for per_s in RATES:
        print(run(_simulated(per_s, ours=False)).line(f"round robin, {per_s:g} calls/s, simulated"))
        print(run(_simulated(per_s, ours=True)).line(f"pool, {per_s:g} calls/s, simulated"), flush=True)
    if options.real and is_installed():
        with tempfile.TemporaryDirectory() as folder:
            server = TinyVllm(Path(folder))
            try:
                server.start()
                server.await_ready()
                print(asyncio.run(_real(server, 5.0)).line("pool, 5 calls/s, real vLLM"))
            finally:
                server.stop()


if __name__ == "__main__":
    main()
