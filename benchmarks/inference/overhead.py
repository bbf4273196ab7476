"""What a pool adds to one call when all is well: processor time, against the same backend without it.

    python -m benchmarks.inference overhead

The backend answers at once and does nothing. Affinity is what finding and remembering the prompt's home takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

from benchmarks.inference.agents import completion
from inference.backend import Backend, BackendReply, BackendRequest
from inference.routing import ReplicaPool, RoutingSettings
from inference.routing.affinity import PrefixMemory
from inference.routing.settings import AffinitySettings

CALLS, ROUNDS = 2000, 9
PROMPT_KIB = (0.5, 1, 2, 8, 32, 128)
REQUESTS: Mapping[str, BackendRequest] = {
    "streamed, 1 KiB": completion("1", "x" * 1024, 1),
    "Predict": BackendRequest(call_id="1", target="risk", operation="Predict", body=b"x" * 1024),
}


class Immediate:
    @asynccontextmanager
    async def send(self, _: BackendRequest) -> AsyncGenerator[BackendReply]:
        yield BackendReply(status=200, headers=(), chunks=_one_chunk())


async def _one_chunk() -> AsyncGenerator[bytes]:
    yield b"a"


def backends() -> dict[str, Backend]:
    hedging = RoutingSettings.model_validate({"hedge": {"ratio": 0.05}})
    return {
        "without a pool": Immediate(),
        "pool of one": ReplicaPool({"a": Immediate()}),
        "pool of two": ReplicaPool({"a": Immediate(), "b": Immediate()}),
        "pool of 16": ReplicaPool({str(number): Immediate() for number in range(16)}),
        "pool of 16 that hedges": ReplicaPool({str(number): Immediate() for number in range(16)}, hedging),
    }


async def called(backend: Backend, request: BackendRequest) -> None:
    for _ in range(CALLS):
        async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
            async for _ in chunks:
                pass


def affinity_of(request: BackendRequest) -> Callable[[], None]:
    memory = PrefixMemory(AffinitySettings(), 16)

    def work() -> None:
        keys = memory.keys(request)
        memory.match(keys)
        memory.remember(keys, 3)

    return work


async def main_() -> None:
    best: dict[tuple[str, str], float] = {}
    tested = backends()
    for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine hurts all alike
        for kind, request in REQUESTS.items():
            for name, backend in tested.items():
                began = time.process_time()
                await called(backend, request)
                span_s = (time.process_time() - began) / CALLS
                best[kind, name] = min(span_s, best.get((kind, name), span_s))
    for (kind, name), span_s in best.items():
        added = span_s - best[kind, "without a pool"]
        print(f"{kind:18}{name:26}{span_s * 1e6:7.1f} µs   added {added * 1e6:6.1f} µs")


def main() -> None:
    asyncio.run(main_())
    for kib in PROMPT_KIB:
        work, spans = affinity_of(completion("1", "x" * int(kib * 1024), 1)), []
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(200):
                work()
            spans.append((time.process_time() - began) / 200)
        print(f"affinity, prompt of {kib:g} KiB {min(spans) * 1e6:6.1f} µs")


if __name__ == "__main__":
    main()
