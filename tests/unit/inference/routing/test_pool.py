"""What a caller gets from a pool: one answer, one error, one budget, and nothing held afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest
from msgspec.structs import replace

from benchmarks.inference.virtual_time import in_virtual_time
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.routing import ReplicaPool, RoutingSettings
from tests.unit.inference.routing.driving import ask, world
from tests.unit.inference.routing.fakes import FakeReplica, chat, now, predict


def settings(**parts: object) -> RoutingSettings:
    return RoutingSettings.model_validate({"affinity": {"blocks": 0}} | parts)


def asked(*replicas: FakeReplica) -> int:
    return sum(len(one.asked) for one in replicas)


def test_pool_without_a_replica_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a replica"):
        ReplicaPool({})


def test_readings_that_are_always_stale_are_refused() -> None:
    with pytest.raises(ValueError, match="stale"):
        settings(watch={"every_s": 5.0, "stale_s": 5.0})


@in_virtual_time
async def test_calls_are_spread_by_what_is_under_way() -> None:
    async with world("a", "b", "c", watched=False) as live:
        await asyncio.gather(*(ask(live.pool, predict()) for _ in range(30)))
        assert [len(live[name].asked) for name in "abc"] == [10, 10, 10]


@pytest.mark.parametrize(
    ("request_", "error", "attempts"),
    [
        (chat(), BackendUnavailable("connect_failed"), 2),
        (chat(), BackendBroke("upstream_500"), 2),
        (predict(), BackendTimeout("deadline_exceeded"), 2),
        (chat(), BackendRejected("invalid_argument"), 1),
        (replace(chat(), operation="responses"), BackendUnavailable("busy"), 2),
        (replace(chat(), operation="responses"), BackendBroke("hung_up"), 1),
        (replace(chat(), operation="call"), BackendTimeout("deadline"), 1),
        (replace(chat(), operation="call"), BackendUnavailable("connect_failed"), 2),
        (chat(), BackendBroke("reply_too_large"), 1),
    ],
)
@in_virtual_time
async def test_only_what_left_nothing_behind_is_asked_twice(
    request_: BackendRequest, error: BackendError, attempts: int
) -> None:
    async with world("a", "b", watched=False) as live:
        for one in live.replicas.values():
            one.error = error
        assert (await ask(live.pool, request_)).error is error
        assert asked(live["a"], live["b"]) == attempts


@in_virtual_time
async def test_nothing_is_asked_twice_after_the_first_byte() -> None:
    async with world("a", "b", watched=False) as live:
        async with live.pool.send(chat()) as reply, aclosing(reply.chunks) as chunks:
            await anext(chunks)
            for one in live.replicas.values():
                one.error = BackendBroke("cut")
            with pytest.raises(BackendBroke):
                await anext(chunks)
        assert asked(live["a"], live["b"]) == 1


@in_virtual_time
async def test_attempts_share_one_deadline() -> None:
    async with world("a", "b", "c", watched=False, settings=settings(retry={"first_byte_s": 3.0})) as live:
        for one in live.replicas.values():
            one.freeze()
        answer = await ask(live.pool, chat(timeout_s=8.0))
        assert answer.error.reason == "deadline"
        assert answer.took_s == pytest.approx(8.0)
        limits = [one.asked[0][1].timeout_s for one in live.replicas.values()]
        assert sorted(limits, reverse=True) == pytest.approx([8.0, 5.0, 2.0])


@in_virtual_time
async def test_nobody_is_asked_when_the_time_is_up() -> None:
    async with world("a", "b", watched=False) as live:
        for one in live.replicas.values():
            one.freeze()
        assert (await ask(live.pool, chat(timeout_s=1.0))).error.reason == "deadline"
        assert asked(live["a"], live["b"]) == 1


@in_virtual_time
async def test_replica_that_was_ejected_is_no_longer_believed_to_know_a_prompt() -> None:
    async with world("a", "b") as live:
        request = chat(body=b'{"messages":' + b"a long prompt " * 200)
        await ask(live.pool, request)
        home = next(one for one in live.replicas.values() if one.asked)
        memory = live.pool._choice._memory
        assert memory.match(memory.keys(request)).replicas
        home.sleep()
        await asyncio.sleep(1.0)
        assert not memory.match(memory.keys(request)).replicas


@in_virtual_time
async def test_attempts_are_counted() -> None:
    async with world(*"abcde", watched=False, settings=settings(retry={"attempts": 2})) as live:
        for one in live.replicas.values():
            one.error = BackendBroke("upstream_500")
        await ask(live.pool)
        assert asked(*live.replicas.values()) == 2


@in_virtual_time
async def test_retries_stay_within_the_budget_when_everything_fails() -> None:
    limits = {"ratio": 0.1, "per_s": 1.0, "burst": 5.0}
    lenient = {"failures": 10_000}
    async with world(*"abcd", watched=False, settings=settings(retry=limits, ejection=lenient)) as live:
        for one in live.replicas.values():
            one.error = BackendBroke("upstream_500")
        calls = len(await live.traffic(20.0, every_s=0.05))
        retries = asked(*live.replicas.values()) - calls
        assert 0.1 * calls < retries <= 5 + 0.1 * calls + 20 + 1


@in_virtual_time
async def test_retry_after_is_honoured_and_passed_on() -> None:
    async with world("a", "b", watched=False) as live:
        for one, wait_s in (("a", 5.0), ("b", 7.0)):
            live[one].error = BackendUnavailable("busy", retry_after_s=wait_s)
        assert (await ask(live.pool)).error.reason == "busy"
        assert asked(live["a"], live["b"]) == 2
        refusal = (await ask(live.pool)).error
        assert (refusal.reason, refusal.retry_after_s) == ("busy", pytest.approx(5.0))
        assert asked(live["a"], live["b"]) == 2
        for one in live.replicas.values():
            one.error = None
        await asyncio.sleep(5.1)
        assert (await ask(live.pool)).body == b"aaa"


@in_virtual_time
async def test_shorter_retry_after_does_not_undo_a_longer_one() -> None:
    """A peer kept the first and shorter of two deadlines (BerriAI/litellm#40130)."""
    async with world("a", "b", watched=False, answer_s=1.0) as live:
        replica = live.pool._replicas[0]
        replica.note_busy(20.0, now())
        replica.note_busy(1.0, now())
        replica.note_busy(100_000.0, now())
        assert replica.retry_at_s == now() + 30.0  # retry_after_max_s


@in_virtual_time
async def test_three_failures_in_a_row_eject_and_back_off_grows() -> None:
    async with world("a", "b", watched=False, settings=settings(retry={"ratio": 1.0})) as live:
        live["a"].error = BackendBroke("upstream_500")
        await live.traffic(60.0, every_s=0.05)
        tried_s = [at_s for at_s, _ in live["a"].asked]
        gaps = [round(later - earlier) for earlier, later in pairwise(tried_s[2:])]
        assert gaps[:6] == [1, 2, 4, 8, 15, 15]
        assert live.transitions[0].reason == "upstream_500"


@in_virtual_time
async def test_success_in_between_starts_the_count_anew() -> None:
    async with world("a", "b", watched=False) as live:
        for _ in range(10):
            live["a"].error = BackendBroke("upstream_500")
            for _ in range(2):
                await ask(live.pool)
            live["a"].error = None
            for _ in range(4):
                await ask(live.pool)
        assert not live.transitions


@in_virtual_time
async def test_requests_that_are_wrong_eject_nobody() -> None:
    async with world("a", "b", watched=False) as live:
        for one in live.replicas.values():
            one.error = BackendRejected("not_found")
        assert {a.error.reason for a in await live.traffic(3.0)} == {"not_found"}
        assert not live.transitions


@pytest.mark.parametrize("reason", ["reply_too_large", "event_too_long"])
@in_virtual_time
async def test_one_who_asks_for_too_much_takes_no_replica_from_the_others(reason: str) -> None:
    async with world("a", "b", watched=False) as live:
        for one in live.replicas.values():
            one.error = BackendBroke(reason)
        assert {a.error.reason for a in await live.traffic(3.0)} == {reason}
        assert not live.transitions


@in_virtual_time
async def test_replica_that_does_not_serve_it_sends_the_call_on_and_stays() -> None:
    async with world("a", "b", settings=settings(retry={"ratio": 1.0})) as live:
        live["a"].error = BackendUnavailable("not_deployed")
        live["a"].probe_bug = BackendRejected("not_found")
        assert not any(answer.error for answer in await live.traffic(20.0))
        assert not live.transitions


@in_virtual_time
async def test_impatient_callers_eject_nobody() -> None:
    async with world("a", "b", watched=False, answer_s=1.0) as live:
        assert {a.error.reason for a in await live.traffic(3.0, request=chat(timeout_s=0.05))} == {"deadline"}
        assert not live.transitions


@in_virtual_time
async def test_caller_who_leaves_frees_everything() -> None:
    async with world("a", "b", watched=False) as live:
        waiting = asyncio.create_task(ask(live.pool))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        async with live.pool.send(chat()) as reply:
            await anext(reply.chunks)
        assert [one.in_flight for one in live.pool.snapshot()] == [0, 0]
        assert [one.progress.owed for one in live.pool._replicas] == [0, 0]
        assert [one.under_way for one in live.replicas.values()] == [0, 0]
        assert not any(one.waiting for one in live.pool._replicas)


@in_virtual_time
async def test_slow_reader_is_not_the_replicas_fault() -> None:
    async with world("a", "b") as live:
        async with live.pool.send(chat(timeout_s=1000.0)) as reply, aclosing(reply.chunks) as chunks:
            async for _ in chunks:
                await asyncio.sleep(30.0)
                assert [one.stalled_s for one in live.pool.snapshot()] == [0.0, 0.0]
        assert not live.transitions


@in_virtual_time
async def test_only_replica_is_never_ejected_for_failed_calls() -> None:
    """The breaker around the pool judges the same calls; two that refuse would hide each other."""
    async with world("a") as live:
        live["a"].error = BackendBroke("upstream_500")
        live["a"].probe_bug = BackendBroke("upstream_500")
        for _ in range(10):
            assert (await ask(live.pool)).error.reason == "upstream_500"
        assert live.state("a") == "ready"


@in_virtual_time
async def test_only_replica_that_sleeps_is_refused_at_once_with_the_time_to_come_back() -> None:
    async with world("a") as live:
        live["a"].sleep()
        await asyncio.sleep(0.6)
        refusal = (await ask(live.pool)).error
        assert (refusal.reason, refusal.detail) == ("no_replica", "a: asleep")
        assert refusal.retry_after_s <= 1.0
        assert not live["a"].asked


class Immediate:
    @asynccontextmanager
    async def send(self, _: BackendRequest) -> AsyncGenerator[BackendReply]:
        async def chunks() -> AsyncGenerator[bytes]:
            yield b"a"

        yield BackendReply(status=200, headers=(), chunks=chunks())


@in_virtual_time
async def test_only_replica_is_asked_without_timer_or_task() -> None:
    pool = ReplicaPool({"a": Immediate()})
    await pool.watch()  # over at once: there is nothing to watch with
    async with pool.send(chat()) as reply:
        assert not asyncio.get_running_loop()._scheduled
        assert len(asyncio.all_tasks()) == 1
        assert [chunk async for chunk in reply.chunks] == [b"a"]


@in_virtual_time
async def test_listener_that_fails_hurts_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> None:
        raise RuntimeError

    async with world("a", "b", watched=False) as live:
        live.pool.listen(broken)
        live["a"].kill()
        assert not any(answer.error for answer in await live.traffic(3.0))
        assert "listener" in caplog.text


@in_virtual_time
async def test_snapshot_says_what_the_replica_says_and_what_we_see() -> None:
    async with world("a", "b", "c") as live:
        live["c"].sleep()
        calls = [asyncio.create_task(ask(live.pool, chat(str(number)))) for number in range(4)]
        await asyncio.sleep(0)
        one, _, third = live.pool.snapshot()
        assert (one.name, one.state, one.reason, one.is_saturated) == ("a", "ready", "", False)
        assert (one.waiting, one.running, one.kv_ratio) == (0, 0, 0.0)
        assert sorted(status.in_flight for status in live.pool.snapshot()) == [1, 1, 2]
        await asyncio.gather(*calls)
        await asyncio.sleep(0.6)
        assert (live.pool.snapshot()[2].state, live.pool.snapshot()[2].reason) == ("ejected", "asleep")
        assert third.load_age_s < 1.0
