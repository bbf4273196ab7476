"""Whether the simulator may be believed: two real vLLMs against two simulated ones, with the same agents.

    python -m benchmarks.inference reality [--seconds 60] [--agents 10]      (needs .venv-vllm, and 3.5 GB of memory)

First the machine is measured: one request and twelve at once, short and long prompts, on both servers at the same time,
for they share the processors. Then agents talk to both pairs, under round robin and under the pool. Two predictions:
one from the measured machine alone; one where a single number, how much slower the machine is while agents talk, is
taken from round robin, so that what is left of the error with the pool is the simulator's own.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import median, quantiles

from benchmarks.inference.agents import Agents, Figures, Prompt, Seen, Talk, completion, heading, timed
from benchmarks.inference.routing import POLICIES, Policy, simulated
from benchmarks.inference.simulator import Machine
from benchmarks.inference.tiny_vllm import TinyVllm, is_installed
from benchmarks.inference.virtual_time import run
from inference.backend import Backend
from inference.openai_http.load import VllmLoad
from inference.openai_http.settings import VllmSettings
from inference.routing import LoadSource, ReplicaPool
from inference.vllm import VllmBackend

SHORT_TOKENS, LONG_TOKENS, ANSWER_TOKENS, AT_ONCE, TIMES = 64, 640, 128, 12, 20
KV_TOKENS = 64 * 1024 * 1024 // 1024  # the tiny model keeps 1 KiB for each token
BLOCK_TOKENS, MAX_SEQUENCES = 32, 16  # as examples/tiny_llm/serve.py starts it
COMPARED = ("round robin", "least loaded + prefix")


def small_talk(bytes_per_token: float) -> Talk:
    """Fits the 1024 tokens of the tiny model."""
    return Talk(
        system_tokens=(200, 400),
        turns=(2, 4),
        question_tokens=(16, 48),
        answer_tokens=(8, 48),
        long_answer_tokens=160,
        long_share=0.1,
        pause_s=0.8,
        tenants=5,
        bytes_per_token=bytes_per_token,
        warm_up_s=5.0,
    )


class Measuring:
    """Requests whose prompts nobody has seen before."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends, self.bytes_per_token = backends, 3.0
        self._chance, self._numbers = random.Random(11), count()

    async def machine(self) -> Machine:
        """Warms up first; a first request of a kind may take seconds."""
        for tokens in (SHORT_TOKENS, LONG_TOKENS):
            await self._each(tokens, 4, AT_ONCE)
        prompt = self._prompt(LONG_TOKENS)
        told = await timed(self.backends[0], completion("ratio", prompt, 1))
        self.bytes_per_token = len(prompt) / told.prompt_tokens
        short, long = await self._first_bytes_s(SHORT_TOKENS, LONG_TOKENS)
        alone_s, together_s = await self._token_s(1), await self._token_s(AT_ONCE)
        prefill_token_s = max(0.0, (long - short) / (LONG_TOKENS - SHORT_TOKENS))
        sequence_s = max(0.0, (together_s - alone_s) / (AT_ONCE - 1))
        step_s = alone_s - sequence_s
        return Machine(
            step_s=step_s,
            sequence_s=sequence_s,
            prefill_token_s=prefill_token_s,
            request_s=max(0.0, short - step_s - SHORT_TOKENS * prefill_token_s),
            max_sequences=MAX_SEQUENCES,
            kv_blocks=KV_TOKENS // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
        )

    async def _first_bytes_s(self, *sizes: int) -> list[float]:
        """Lower quartiles, taken in turn: what else runs on the machine comes and goes, and only ever adds."""
        spans: dict[int, list[float]] = {tokens: [] for tokens in sizes}
        for _ in range(TIMES):
            for tokens in sizes:
                spans[tokens] += [one.first_byte_s for one in await self._each(tokens, 1, 1)]
        return [quantiles(each, n=4)[0] for each in spans.values()]

    async def _token_s(self, at_once: int) -> float:
        seen = [one for _ in range(3) for one in await self._each(SHORT_TOKENS, ANSWER_TOKENS, at_once)]
        return median((one.whole_s - one.first_byte_s) / (ANSWER_TOKENS - 1) for one in seen)

    async def _each(self, tokens: int, answer_tokens: int, at_once: int) -> list[Seen]:
        """``at_once`` requests at each server, all at the same time."""
        return await asyncio.gather(
            *(
                timed(backend, completion(f"measure-{next(self._numbers)}", self._prompt(tokens), answer_tokens))
                for backend in self.backends
                for _ in range(at_once)
            )
        )

    def _prompt(self, tokens: int) -> str:
        prompt = Prompt(0)
        prompt.grow(tokens, Talk(bytes_per_token=self.bytes_per_token), self._chance)
        return prompt.text


async def real(
    policy: Policy, backends: Mapping[str, Backend], loads: Mapping[str, LoadSource], people: Agents, options: Options
) -> list[Seen]:
    people.backend = backend = policy(backends, loads)
    watching = asyncio.create_task(backend.watch()) if isinstance(backend, ReplicaPool) else None
    try:
        return await people.live(options.agents, options.seconds)
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])


class Options(argparse.Namespace):
    seconds: float
    agents: int


async def on_real_servers(servers: Sequence[TinyVllm], options: Options) -> tuple[Machine, Talk, dict[str, Figures]]:
    settings = [VllmSettings.model_validate({"base_url": f"{server.origin}/v1"}) for server in servers]
    backends = {f"r{number}": VllmBackend(one) for number, one in enumerate(settings)}
    loads = {f"r{number}": VllmLoad(one) for number, one in enumerate(settings)}
    try:
        measuring = Measuring(list(backends.values()))
        machine = await measuring.machine()
        talk = small_talk(measuring.bytes_per_token)
        figures = {}
        for seed, name in enumerate(COMPARED):
            people = Agents(next(iter(backends.values())), talk, seed)
            figures[name] = Figures.of(await real(POLICIES[name], backends, loads, people, options))
        return machine, talk, figures
    finally:
        for backend in backends.values():
            await backend.aclose()
        for load in loads.values():
            await load.aclose()


def compare(machine: Machine, talk: Talk, figures: Mapping[str, Figures], options: Options) -> None:
    load = f"{os.getloadavg()[0]:.1f} processes for {os.cpu_count()} processors"
    print(
        f"measured machine ({load}): step {machine.step_s * 1000:.2f} ms, sequence {machine.sequence_s * 1000:.3f} ms,"
        f" prompt token {machine.prefill_token_s * 1000:.3f} ms, request {machine.request_s * 1000:.1f} ms;"
        f" {talk.bytes_per_token:.2f} bytes a token"
    )
    slowness = 1.0
    for seed, (name, met) in enumerate(figures.items()):
        print(f"\n{heading(name)}\n{met.line('real')}")
        told = _told(name, machine, talk, seed, options)
        print(f"{told.line('simulated')}\n  {_errors(met, told)}")
        if not seed:
            slowness = _slowness(met, machine, talk, options)
        fitted = _told(name, machine.slower(slowness), talk, seed, options)
        print(f"{fitted.line(f'simulated, {slowness:.1f} x slower')}\n  {_errors(met, fitted)}")


def _told(name: str, machine: Machine, talk: Talk, seed: int, options: Options) -> Figures:
    scenario = simulated(POLICIES[name], [machine] * 2, talk, agents=options.agents, span_s=options.seconds, seed=seed)
    return Figures.of(run(scenario))


def _slowness(met: Figures, machine: Machine, talk: Talk, options: Options) -> float:
    """By halving: the factor with which simulated round robin has the real one's median."""
    low, high = 0.25, 8.0
    for _ in range(7):
        middle = math.sqrt(low * high)
        told = _told(COMPARED[0], machine.slower(middle), talk, 0, options)
        low, high = (middle, high) if told.whole_p50_s < met.whole_p50_s else (low, middle)
    return math.sqrt(low * high)


def _errors(met: Figures, told: Figures) -> str:
    spans = ("first_p50_s", "first_p95_s", "whole_p50_s", "whole_p95_s")
    words = [f"{one.removesuffix('_s')} {getattr(told, one) / getattr(met, one) - 1:+.0%}" for one in spans]
    return f"error: {', '.join(words)}, prefix hits {(told.hit_ratio - met.hit_ratio) * 100:+.1f} points"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="reality", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--agents", type=int, default=10)
    options = parser.parse_args(arguments, namespace=Options())
    if not is_installed():
        print("skipped: vLLM for the CPU is not installed (.venv-vllm)")
        return
    with tempfile.TemporaryDirectory() as folder:
        servers = [TinyVllm(Path(folder)), TinyVllm(Path(folder))]
        try:
            for server in servers:
                server.start()
            for server in servers:
                server.await_ready()
            machine, talk, figures = asyncio.run(on_real_servers(servers, options))
        finally:
            for server in servers:
                server.stop()
    compare(machine, talk, figures, options)


if __name__ == "__main__":
    main()
