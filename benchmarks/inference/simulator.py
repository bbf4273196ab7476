"""A vLLM that costs nothing: continuous batching, prefill, queue and prefix cache, in virtual time.

Runs the product's own routing, not a copy of it: a simulated replica is a ``Backend`` with metrics, on an event loop
whose clock leaps. One engine step prefills up to ``batch_tokens`` prompt tokens and gives each sequence that is past
its prompt one token; its time grows with both. Left out: preemption, chunks shared between prompts, the network.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from benchmarks.inference.agents import Asked
from inference.backend import BackendReply, BackendRequest, Usage
from inference.errors import BackendUnavailable
from inference.routing import Load


@dataclass(frozen=True)
class Machine:
    """``step_s`` for a step with nothing in it; the rest is added for each sequence and each prompt token in it."""

    step_s: float
    sequence_s: float
    prefill_token_s: float
    request_s: float  # for each request outside the engine: HTTP, template, tokenizer
    max_sequences: int = 256
    batch_tokens: int = 2048
    kv_blocks: int = 12_000
    block_tokens: int = 16
    max_queued: int = 10_000

    def slower(self, times: float) -> Machine:
        return replace(
            self,
            step_s=self.step_s * times,
            sequence_s=self.sequence_s * times,
            prefill_token_s=self.prefill_token_s * times,
            request_s=self.request_s * times,
        )


GPU = Machine(step_s=0.012, sequence_s=0.000_05, prefill_token_s=0.000_1, request_s=0.003)
"""About an 8-billion model on one data-centre GPU; the order of magnitude is what matters, not the digit."""


@dataclass(eq=False)
class Running:
    asked: Asked
    blocks: Sequence[int]
    to_prefill: int
    cached: int = 0
    first: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    generated: int = 0
    is_gone: bool = False


class PrefixCache:
    """Least recently used blocks go first. A block counts only behind all that stand before it."""

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()

    def hits(self, blocks: Sequence[int]) -> int:
        count = 0
        for block in blocks:
            if block not in self._kept:
                break
            self._kept.move_to_end(block)
            count += 1
        return count

    def keep(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # the beginning is the youngest, as when a server frees a sequence's blocks
            self._kept[block] = None
            self._kept.move_to_end(block)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)


class SimulatedVllm:
    """``asked`` tells what a request asks for, by its call id."""

    def __init__(self, name: str, machine: Machine, asked: Mapping[str, Asked]) -> None:
        self.name, self.machine, self._asked = name, machine, asked
        self.cache = PrefixCache(machine.kv_blocks)
        self.queue: deque[Running] = deque()
        self.running: list[Running] = []
        self.worked = 0
        self._wake, self._moves = asyncio.Event(), asyncio.Event()
        self._moves.set()

    def freeze(self) -> None:
        self._moves.clear()

    def thaw(self) -> None:
        self._moves.set()

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        if len(self.queue) >= self.machine.max_queued:
            raise BackendUnavailable("busy")
        await asyncio.sleep(self.machine.request_s)
        asked = self._asked[request.call_id]
        sequence = Running(asked, blocks_of(asked, self.machine.block_tokens), asked.prompt_tokens)
        self.queue.append(sequence)
        self._wake.set()
        try:
            await sequence.first.wait()
            usage = Usage(asked.prompt_tokens, asked.answer_tokens, sequence.cached)
            yield BackendReply(status=200, headers=(), chunks=self._chunks(sequence), usage=usage)
        finally:
            sequence.is_gone = True

    async def load(self) -> Load:
        tokens = sum(one.asked.prompt_tokens + one.generated for one in self.running)
        room = self.machine.kv_blocks * self.machine.block_tokens
        return Load(
            waiting=len(self.queue), running=len(self.running), kv_ratio=min(1.0, tokens / room), worked=self.worked
        )

    async def run(self) -> None:
        """The engine; until cancelled."""
        while True:
            self._admit()
            if not self.running:
                self._wake.clear()
                await self._wake.wait()
                continue
            decoding = [one for one in self.running if not one.to_prefill]
            prefilled = self._prefill()
            machine = self.machine
            await asyncio.sleep(
                machine.step_s + machine.sequence_s * len(decoding) + machine.prefill_token_s * prefilled
            )
            await self._moves.wait()
            self._advance()

    def _admit(self) -> None:
        self.running = [one for one in self.running if not (one.done.is_set() or one.is_gone)]
        while self.queue and len(self.running) < self.machine.max_sequences:
            sequence = self.queue.popleft()
            if sequence.is_gone:
                continue
            hits = self.cache.hits(sequence.blocks)
            sequence.cached = min(hits * self.machine.block_tokens, sequence.asked.prompt_tokens - 1)
            sequence.to_prefill = sequence.asked.prompt_tokens - sequence.cached
            self.running.append(sequence)

    def _prefill(self) -> int:
        left = self.machine.batch_tokens
        for one in self.running:
            share = min(left, one.to_prefill)
            if share:
                one.to_prefill -= share
                left -= share
                if not one.to_prefill:
                    self.cache.keep(one.blocks)
        return self.machine.batch_tokens - left

    def _advance(self) -> None:
        for one in self.running:
            if one.to_prefill:
                continue
            one.generated += 1
            self.worked += 1
            if one.generated == 1:
                one.first.set()
            if one.generated >= one.asked.answer_tokens:
                one.done.set()

    async def _chunks(self, sequence: Running) -> AsyncGenerator[bytes]:
        yield b"first"
        await sequence.done.wait()
        yield b"last"


def blocks_of(asked: Asked, block_tokens: int) -> list[int]:
    """Names of the prompt's whole blocks of tokens; equal beginnings have equal names. No two tenants share any."""
    blocks, width = asked.prompt_tokens // block_tokens, block_tokens * asked.bytes_per_token
    names, name, at = [], hash(asked.tenant), 0
    for number in range(1, blocks + 1):
        end = round(number * width)
        name = hash((name, asked.prompt[at:end]))
        names.append(name)
        at = end
    return names
