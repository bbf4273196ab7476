"""Agents that hold conversations with a backend, real or simulated: the same words and pauses for the same seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from statistics import quantiles

import msgspec

from inference.backend import Backend, BackendRequest

HEADS, TAILS = ("ab", "con", "de", "im", "per", "re", "sub", "un"), ("act", "form", "port")
WORDS = [f"{head}{tail}" for head in HEADS for tail in TAILS]


@dataclass(frozen=True)
class Talk:
    """How agents talk; pairs are the least and the most. Every tenant's agents begin with the same system prompt."""

    system_tokens: tuple[int, int] = (600, 2400)
    turns: tuple[int, int] = (3, 12)
    question_tokens: tuple[int, int] = (40, 400)
    answer_tokens: tuple[int, int] = (30, 250)
    long_answer_tokens: int = 900
    long_share: float = 0.1
    pause_s: float = 4.0
    tenants: int = 8
    bytes_per_token: float = 4.0
    warm_up_s: float = 30.0


@dataclass
class Prompt:
    """A text that only grows."""

    tenant: int
    tokens: int = 0
    text: str = ""

    def grow(self, tokens: int, talk: Talk, chance: random.Random) -> None:
        self.tokens += tokens
        wanted = round(tokens * talk.bytes_per_token)
        words = " ".join(chance.choices(WORDS, k=wanted // 4 + 1))
        self.text += words[: wanted - 1] + " "


@dataclass(frozen=True)
class Seen:
    first_byte_s: float
    whole_s: float
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Asked:
    """What a simulated server must know of a request; a real one reads the body."""

    prompt: str
    tenant: int
    prompt_tokens: int
    answer_tokens: int
    bytes_per_token: float = 4.0


@dataclass
class Agents:
    """``asked`` holds what is under way, by call id."""

    backend: Backend
    talk: Talk
    seed: int
    asked: dict[str, Asked] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    async def live(self, agents: int, span_s: float) -> list[Seen]:
        until_s = asyncio.get_running_loop().time() + span_s
        await asyncio.gather(*(self._agent(number, until_s) for number in range(agents)))
        return self.seen

    async def _agent(self, number: int, until_s: float) -> None:
        """One conversation after another, a pause before each turn."""
        talk, chance, now = self.talk, random.Random(f"{self.seed}/{number}"), asyncio.get_running_loop().time
        counts_from_s = now() + talk.warm_up_s
        await asyncio.sleep(chance.uniform(0, talk.pause_s))
        while now() < until_s:
            prompt = self._system_prompt(number % talk.tenants)
            for _ in range(chance.randint(*talk.turns)):
                prompt.grow(chance.randint(*talk.question_tokens), talk, chance)
                is_long = chance.random() < talk.long_share
                answer = talk.long_answer_tokens if is_long else chance.randint(*talk.answer_tokens)
                seen = await self._turn(prompt, answer)
                if now() > counts_from_s:
                    self.seen.append(seen)
                prompt.grow(answer, talk, chance)
                await asyncio.sleep(chance.expovariate(1 / talk.pause_s))
                if now() >= until_s:
                    break

    def _system_prompt(self, tenant: int) -> Prompt:
        words = random.Random(f"{self.seed}/tenant/{tenant}")
        prompt = Prompt(tenant)
        prompt.grow(words.randint(*self.talk.system_tokens), self.talk, words)
        return prompt

    async def _turn(self, prompt: Prompt, answer: int) -> Seen:
        call_id = str(next(self.numbers))
        self.asked[call_id] = Asked(prompt.text, prompt.tenant, prompt.tokens, answer, self.talk.bytes_per_token)
        request = completion(call_id, prompt.text, answer, str(prompt.tenant))
        try:
            return await timed(self.backend, request)
        finally:
            del self.asked[call_id]


def completion(call_id: str, prompt: str, answer_tokens: int, tenant: str = "") -> BackendRequest:
    fields = {"model": "tiny", "prompt": prompt, "max_tokens": answer_tokens, "ignore_eos": True, "stream": True}
    return BackendRequest(
        call_id=call_id,
        target="tiny",
        operation="completions",
        body=msgspec.json.encode(fields | {"temperature": 0}),
        streams=True,
        tenant=tenant,
        timeout_s=600.0,
    )


async def timed(backend: Backend, request: BackendRequest) -> Seen:
    now = asyncio.get_running_loop().time
    began_s = now()
    async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
        await anext(chunks)
        first_s = now() - began_s
        async for _ in chunks:
            pass
        usage = reply.usage
        return Seen(first_s, now() - began_s, usage.input_tokens or 0, usage.cached_tokens or 0)


@dataclass(frozen=True)
class Figures:
    calls: int
    first_p50_s: float
    first_p95_s: float
    whole_p50_s: float
    whole_p95_s: float
    hit_ratio: float

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Figures:
        first = quantiles([one.first_byte_s for one in seen], n=20)
        whole = quantiles([one.whole_s for one in seen], n=20)
        cached = sum(one.cached_tokens for one in seen) / sum(one.prompt_tokens for one in seen)
        return cls(len(seen), first[9], first[18], whole[9], whole[18], cached)

    def line(self, name: str) -> str:
        return (
            f"{name:24}{self.calls:8}{self.first_p50_s * 1000:8.0f} ms{self.first_p95_s * 1000:6.0f} ms"
            f"{self.whole_p50_s:9.2f} s{self.whole_p95_s:7.2f} s{self.hit_ratio:12.1%}"
        )


def heading(name: str) -> str:
    return f"{name:24}{'calls':>8}{'first p50':>11}{'p95':>9}{'whole p50':>11}{'p95':>9}{'prefix hits':>13}"
