"""What prefix affinity and least-loaded gain over round robin, on a simulated fleet of 16.

    python -m benchmarks.inference routing [--replicas 16] [--minutes 5] [--seeds 3]

Agents of eight tenants hold conversations that grow: a system prompt of their tenant, then turn after turn. Some are
quick and short, a few ask for long answers. Three days: an even one; one on which two of 16 servers are three times
slower, as with a neighbour on their GPU; one on which there are more agents than the servers take at once. The routing
is the product's own; the servers are ``simulator.SimulatedVllm``. Every policy meets the same agents, prompts, pauses.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from benchmarks.inference.agents import Agents, Figures, Seen, Talk, heading
from benchmarks.inference.simulator import GPU, Machine, SimulatedVllm
from benchmarks.inference.virtual_time import run
from inference.backend import Backend, BackendReply, BackendRequest
from inference.routing import LoadSource, ReplicaPool, RoutingSettings


@dataclass
class RoundRobin:
    replicas: Sequence[Backend]
    turn: int = 0

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        self.turn += 1
        return self.replicas[self.turn % len(self.replicas)].send(request)


Policy = Callable[[Mapping[str, Backend], Mapping[str, LoadSource]], Backend]


def pooled(**affinity: object) -> Policy:
    settings = RoutingSettings.model_validate({"affinity": affinity})

    def policy(replicas: Mapping[str, Backend], loads: Mapping[str, LoadSource]) -> ReplicaPool:
        return ReplicaPool(replicas, settings, loads=loads, draw=random.Random(1).random)

    return policy


POLICIES: Mapping[str, Policy] = {
    "round robin": lambda replicas, _: RoundRobin(list(replicas.values())),
    "least loaded": pooled(blocks=0),
    "least loaded + prefix": pooled(),
}


@dataclass(frozen=True)
class Day:
    """Every eighth replica is ``slowness`` times slower."""

    name: str
    agents: int  # for each replica
    machine: Machine = GPU
    slowness: float = 1.0

    def machines(self, count: int) -> list[Machine]:
        return [self.machine.slower(self.slowness) if number % 8 == 7 else self.machine for number in range(count)]


DAYS = (
    Day("even", 14),
    Day("two slow servers", 14, slowness=3.0),
    Day("crowded", 28, replace(GPU, max_sequences=16)),
)


async def simulated(
    policy: Policy, machines: Sequence[Machine], talk: Talk, *, agents: int, span_s: float, seed: int
) -> list[Seen]:
    """On an event loop in virtual time."""
    people = Agents(backend=RoundRobin(()), talk=talk, seed=seed)
    replicas = {f"r{n}": SimulatedVllm(f"r{n}", machine, people.asked) for n, machine in enumerate(machines)}
    people.backend = policy(replicas, {name: one.load for name, one in replicas.items()})
    background = [asyncio.create_task(one.run()) for one in replicas.values()]
    if isinstance(people.backend, ReplicaPool):
        background.append(asyncio.create_task(people.backend.watch()))
    try:
        return await people.live(agents, span_s)
    finally:
        for task in background:
            task.cancel()
        await asyncio.wait(background)


def measured(policy: Policy, day: Day, replicas: int, span_s: float, seeds: int) -> Figures:
    """All calls of all seeds together: a median of medians would hide one bad run."""
    seen: list[Seen] = []
    for seed in range(seeds):
        scenario = simulated(
            policy, day.machines(replicas), Talk(), agents=day.agents * replicas, span_s=span_s, seed=seed
        )
        seen += run(scenario)
    return Figures.of(seen)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="routing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(arguments)
    print(f"{options.replicas} simulated replicas, {options.seeds} x {options.minutes:g} min of each day")
    for day in DAYS:
        print(f"\n{heading(day.name)}")
        for name, policy in POLICIES.items():
            print(measured(policy, day, options.replicas, options.minutes * 60, options.seeds).line(name), flush=True)


if __name__ == "__main__":
    main()
