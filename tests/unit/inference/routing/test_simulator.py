"""The simulated server that the routing benchmark believes: batching, prefill and prefix cache as described."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.inference.agents import Asked, Seen, completion, timed
from benchmarks.inference.simulator import Machine, SimulatedVllm, blocks_of
from benchmarks.inference.virtual_time import in_virtual_time

MACHINE = Machine(
    step_s=0.01,
    sequence_s=0.001,
    prefill_token_s=0.0001,
    request_s=0.0,
    max_sequences=4,
    batch_tokens=100,
    kv_blocks=64,
)


async def seen(*asked: Asked, machine: Machine = MACHINE) -> list[Seen]:
    """Asked all at once."""
    table = {str(number): one for number, one in enumerate(asked)}
    server = SimulatedVllm("r0", machine, table)
    engine = asyncio.create_task(server.run())
    spans = await asyncio.gather(*(timed(server, completion(key, one.prompt, 1)) for key, one in table.items()))
    load = await server.load()
    assert (load.waiting, load.worked) == (0, sum(one.answer_tokens for one in asked))
    engine.cancel()
    await asyncio.wait([engine])
    return spans


def prompt(tokens: int, letter: str = "a", tenant: int = 0, answer: int = 1) -> Asked:
    return Asked(letter * 4 * tokens, tenant, tokens, answer)


@in_virtual_time
async def test_first_token_comes_with_the_last_of_the_prompt() -> None:
    (one,) = await seen(prompt(250, answer=3))
    assert one.first_byte_s == pytest.approx(3 * 0.01 + 250 * 0.0001)  # three steps of 100, 100 and 50 tokens
    assert one.whole_s == pytest.approx(one.first_byte_s + 2 * 0.011)


@in_virtual_time
async def test_sequences_share_steps_up_to_the_limit_and_queue_beyond_it() -> None:
    spans = await seen(*(prompt(10, letter, answer=11) for letter in "abcdefgh"))
    first, second = spans[:4], spans[4:]
    assert {round(one.whole_s, 6) for one in first} == {round(0.01 + 40 * 0.0001 + 10 * 0.014, 6)}
    assert all(one.first_byte_s > first[0].whole_s for one in second)


@in_virtual_time
async def test_prompt_seen_before_is_not_computed_again_but_for_its_last_token() -> None:
    table = {"1": prompt(160), "2": prompt(160), "3": prompt(160, tenant=1)}
    server = SimulatedVllm("r0", MACHINE, table)
    engine = asyncio.create_task(server.run())
    cached = [(await timed(server, completion(key, "", 1))).cached_tokens for key in table]
    assert cached == [0, 159, 0]
    engine.cancel()
    await asyncio.wait([engine])


def test_names_of_blocks_stay_when_a_prompt_grows() -> None:
    text = "".join(chr(97 + number % 26) for number in range(3000))
    for tokens in range(64, 900, 7):
        short = Asked(text[: round(tokens * 2.99)], 0, tokens, 1, 2.99)
        long = Asked(text[: round((tokens + 100) * 2.99)], 0, tokens + 100, 1, 2.99)
        assert blocks_of(long, 32)[: len(blocks_of(short, 32))] == blocks_of(short, 32)
