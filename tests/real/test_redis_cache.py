"""Saved answers in a real Redis: shared by gateways, closed to tenants and to readers, and never in the way."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from controlplane.response_cache import CachedBackend, MemoryStore, Parts, ResponseCacheSettings
from controlplane.response_cache.answers import Saved
from inference.backend import BackendReply, BackendRequest, Reuse, Usage
from tests.real.redis_server import Redis, RedisServer, running_redis
from tests.unit.resilience.fakes import FakeBackend, FakeClock

pytestmark = pytest.mark.real("redis")

PATIENCE_S = 60.0  # what Redis may take on a machine that is busy with other things
SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
QUESTION = b'{"messages":[{"content":"what is the diagnosis","role":"user"}],"model":"tiny","temperature":0}'
ASKED = BackendRequest(
    call_id="1",
    target="tiny",
    operation="chat",
    body=QUESTION,
    tenant="acme",
    scope="acme:r1",
    reuse=Reuse(60),
)
SAVED = Saved((("content-type", "a/b"),), (b"secret answer",), "tiny", time.time(), 60, 7, 3, 0)


class Failures(list[str]):
    def __call__(self, reason: str) -> None:
        self.append(reason)


def store(client: Redis, *, secret: bytes = SECRET, pause_s: float = 0.0) -> Any:
    from controlplane.response_cache.redis_store import RedisStore  # noqa: PLC0415  skipped before where there is none

    return RedisStore(client, secret, PATIENCE_S, pause_s, time.monotonic, Failures())


def gateway(client: Redis, answer: bytes = b'{"choices":[]}') -> CachedBackend:
    """One of several, with a memory of its own."""
    parts = Parts(
        settings=ResponseCacheSettings(),
        secret=SECRET,
        memory=MemoryStore(10**6, 100),
        version_of=lambda request: "vllm:tiny",
        wall=time.time,
        monotonic=time.monotonic,
        shared=store(client),
    )
    return CachedBackend(FakeBackend(FakeClock(), (answer,), served_by="tiny"), parts)


async def ask(cache: CachedBackend, request: BackendRequest = ASKED) -> tuple[BackendReply, bytes]:
    async with cache.send(request) as reply, aclosing(reply.chunks) as chunks:
        return reply, b"".join([chunk async for chunk in chunks])


async def test_what_one_gateway_saved_another_one_gives(client: Redis) -> None:
    await ask(gateway(client, b'{"choices":["first"]}'))
    reply, body = await ask(gateway(client, b'{"choices":["second"]}'))
    assert (reply.rung, body) == ("cached", b'{"choices":["first"]}')


async def test_answer_comes_back_as_it_went_with_what_it_took(client: Redis) -> None:
    kept = store(client)
    await kept.put(b"k" * 32, SAVED)
    found = await kept.get(b"k" * 32)
    assert found == SAVED
    assert found.usage() == Usage(7, 3, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "globex", "scope": "globex:r1"},
        {"tenant": "globex"},
        {"scope": "acme:r2"},
        {"reuse": Reuse(60, shaping="out=card")},
        {"target": "other"},
    ],
)
async def test_no_other_tenant_revision_shape_or_model_ever_gets_it(client: Redis, change: dict[str, Any]) -> None:
    await ask(gateway(client, b'{"choices":["ours"]}'))
    reply, body = await ask(gateway(client, b'{"choices":["theirs"]}'), structs.replace(ASKED, **change))
    assert (reply.rung, body) == ("primary", b'{"choices":["theirs"]}')
    assert len(await client.keys()) == 2


async def test_whoever_reads_redis_learns_neither_question_nor_answer_nor_tenant(client: Redis) -> None:
    await ask(gateway(client, b'{"choices":["influenza"]}'))
    (name,) = await client.keys()
    everything = name + await client.get(name)
    for word in (b"acme", b"tiny", b"diagnosis", b"influenza", b"choices", b"content-type"):
        assert word not in everything
    assert 0 < await client.ttl(name) <= 60


async def test_an_answer_moved_to_another_questions_name_does_not_open(client: Redis) -> None:
    """Whoever can write Redis cannot hand one tenant's answer to another; nor can a mixed-up connection."""
    kept = store(client)
    await kept.put(b"a" * 32, SAVED)
    (ours,) = await client.keys()
    await kept.put(b"b" * 32, replace(SAVED, pieces=(b"another",)))
    (theirs,) = set(await client.keys()) - {ours}
    await client.copy(ours, theirs, replace=True)
    assert await kept.get(b"b" * 32) is None
    assert kept.failed == ["not_ours"]
    assert (await kept.get(b"a" * 32)).pieces == (b"secret answer",)


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 100])
async def test_what_is_not_ours_is_a_miss(client: Redis, value: bytes) -> None:
    kept = store(client)
    await kept.put(b"a" * 32, SAVED)
    (name,) = await client.keys()
    await client.set(name, value)
    assert await kept.get(b"a" * 32) is None


async def test_another_secret_finds_nothing(client: Redis) -> None:
    await store(client).put(b"a" * 32, SAVED)
    assert await store(client, secret=OTHER_SECRET).get(b"a" * 32) is None


async def test_redis_that_is_frozen_is_a_miss_within_the_deadline_and_then_left_alone(
    redis: RedisServer, client: Redis
) -> None:
    kept = store(client, pause_s=60)
    await kept.get(b"a" * 32)  # connected
    kept.deadline_s = 0.005
    redis.freeze()
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await kept.get(b"a" * 32) is None
            assert await kept.get(b"a" * 32) is None
            await kept.put(b"a" * 32, SAVED)
    finally:
        redis.thaw()
    assert kept.failed == ["late"], "asked once; paused after that"


async def test_redis_that_is_gone_is_a_miss() -> None:
    with running_redis() as gone:
        pass
    async with gone.client() as client:
        kept = store(client)
        await kept.put(b"a" * 32, SAVED)
        assert await kept.get(b"a" * 32) is None
        assert kept.failed == ["unreachable"] * 2


async def test_a_caller_who_leaves_in_the_middle_mixes_nothing_up(client: Redis) -> None:
    """A connection given back with an answer still on its way would hand it to whoever asks next."""
    kept = store(client)
    for number in range(20):
        await kept.put(bytes([number]) * 32, replace(SAVED, pieces=(b"%d" % number,)))
    for number in range(20):
        leaving = asyncio.create_task(kept.get(bytes([number]) * 32))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        found = await kept.get(bytes([19 - number]) * 32)
        assert found is None or found.pieces == (b"%d" % (19 - number),)
    assert kept.failed == []
