"""Frozen, asleep, paused, killed, queue full: what real servers were seen in, on fakes and in virtual time.

The same five on a real vLLM: ``tests/real/test_vllm_faults.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from benchmarks.inference.virtual_time import in_virtual_time
from inference.errors import BackendUnavailable
from inference.routing import RoutingSettings
from tests.unit.inference.routing.driving import DETECTION_LIMIT_S, World, ask, world
from tests.unit.inference.routing.fakes import FakeReplica, chat, now, predict

Act = Callable[[FakeReplica], None]

STANDING_STILL: dict[str, tuple[Act, Act]] = {
    "frozen": (FakeReplica.freeze, FakeReplica.thaw),
    "asleep": (FakeReplica.sleep, FakeReplica.wake),
    "paused": (FakeReplica.freeze, FakeReplica.thaw),
}


def last_call_s(replica: FakeReplica) -> float:
    return replica.asked[-1][0]


async def heals(live: World, name: str, limit_s: float) -> float:
    began = now()
    while live.state(name) != "ready":
        await asyncio.sleep(0.05)
        assert now() - began < limit_s, f"{name} did not heal"
    return now() - began


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "plain"])
@pytest.mark.parametrize("how", STANDING_STILL)
@in_virtual_time
async def test_traffic_leaves_a_replica_that_stands_still(how: str, streams: bool) -> None:
    stop, go_on = STANDING_STILL[how]
    async with world("a", "b", sees=how != "paused") as live:
        await live.traffic(2.0)
        stop(live["a"])
        stopped_s = now()
        answers = await live.traffic(12.0, request=chat(streams=streams))
        assert {answer.error for answer in answers} == {None}
        assert max(answer.took_s for answer in answers) < DETECTION_LIMIT_S + 1
        assert last_call_s(live["a"]) - stopped_s < DETECTION_LIMIT_S
        assert live["a"].under_way == 0
        go_on(live["a"])
        asked = len(live["a"].asked)
        await heals(live, "a", limit_s=15.0 + 2.5 + 0.5)
        await live.traffic(2.0)
        assert len(live["a"].asked) > asked


@in_virtual_time
async def test_sleeping_replica_is_out_with_the_next_reading_of_its_metrics() -> None:
    async with world("a", "b") as live:
        live["a"].sleep()
        await asyncio.sleep(0.6)
        assert live.state("a") == "ejected"
        assert not any(answer.error for answer in await live.traffic(2.0))
        assert not live["a"].asked
        assert len(live["a"].probed) == 1  # the first look; nobody disturbs a sleeper
        live["a"].wake()
        assert await heals(live, "a", limit_s=1.2) < 1.2


@in_virtual_time
async def test_killed_replica_costs_nobody_his_answer() -> None:
    async with world("a", "b") as live:
        live["a"].kill()
        killed_s = now()
        answers = await live.traffic(20.0)
        assert {answer.error for answer in answers} == {None}
        assert last_call_s(live["a"]) - killed_s < 1.0
        live["a"].restart()
        await heals(live, "a", limit_s=1.2)  # its metrics can be read again: no need to wait for the back-off


@in_virtual_time
async def test_full_queue_moves_the_call_at_once_and_ejects_nobody() -> None:
    async with world("a", "b") as live:
        live["a"].error = BackendUnavailable("busy")
        answers = await live.traffic(5.0)
        assert {answer.error for answer in answers} == {None}
        assert max(answer.took_s for answer in answers) < 0.5
        assert len(live["a"].asked) <= 12  # one for each busy_s
        assert not live.transitions
        live["a"].error = None
        await live.traffic(2.0)
        assert {answer.body for answer in await live.traffic(2.0)} == {b"aaa", b"bbb"}


@in_virtual_time
async def test_all_frozen_replicas_heal_one_by_one() -> None:
    """The breaker of a peer stayed open for ever once everything had failed (BerriAI/litellm#30192)."""
    async with world("a", "b") as live:
        for name in "ab":
            live[name].freeze()
        answers = await live.traffic(30.0, every_s=0.5, request=chat(timeout_s=8.0))
        refused = [answer.error for answer in answers if answer.error]
        assert {error.reason for error in refused} >= {"no_replica"}
        assert all(answer.took_s < 31.0 for answer in answers)
        for name in "ab":
            live[name].thaw()
        for name in "ab":
            await heals(live, name, limit_s=18.0)
        assert not any(answer.error for answer in await live.traffic(3.0))


@in_virtual_time
async def test_ejected_replica_heals_by_a_call_when_nobody_watches() -> None:
    async with world("a", "b", watched=False) as live:
        live["a"].kill()
        await live.traffic(3.0)
        assert live.state("a") == "ejected"
        live["a"].restart()
        await live.traffic(3.0)
        assert live.state("a") == "ready"


@in_virtual_time
async def test_ejected_replica_heals_by_a_call_when_the_watcher_has_died() -> None:
    async with world("a", "b") as live:
        live["a"].freeze()
        await live.traffic(6.0)
        assert live.state("a") != "ready"
        live.watching.cancel()
        live["a"].thaw()
        await asyncio.sleep(30.0)
        await live.traffic(10.0)
        assert live.state("a") == "ready"


@in_virtual_time
async def test_bug_in_a_probe_neither_ends_the_watch_nor_hurts_a_call(caplog: pytest.LogCaptureFixture) -> None:
    async with world("a", "b") as live:
        live["a"].probe_bug = RuntimeError("a bug")
        live["a"].load_bug = RuntimeError("another")
        assert not any(answer.error for answer in await live.traffic(30.0))
        assert len(caplog.records) == 2  # once each, not with every look
        assert not live.watching.done()
        live["a"].probe_bug = live["a"].load_bug = None
        live["a"].freeze()
        await live.traffic(10.0)
        assert live.state("a") != "ready"


@in_virtual_time
async def test_half_open_replica_gets_exactly_one_call() -> None:
    async with world("a", "b", watched=False, answer_s=1.0) as live:
        live["a"].kill()
        await live.traffic(3.0)
        live["a"].restart()
        await asyncio.sleep(20.0)
        before = len(live["a"].asked)
        calls = [asyncio.create_task(ask(live.pool)) for _ in range(50)]
        await asyncio.sleep(0.5)
        assert len(live["a"].asked) == before + 1
        await asyncio.gather(*calls)
        assert live.state("a") == "ready"


@in_virtual_time
async def test_abandoned_probe_gives_its_place_to_the_next_call() -> None:
    async with world("a", watched=False) as live:
        live.pool._replicas[0].health.eject("by hand", now())
        live["a"].freeze()
        await asyncio.sleep(5.0)
        left = asyncio.create_task(ask(live.pool))
        await asyncio.sleep(1.0)
        assert (await ask(live.pool)).error.reason == "no_replica"
        left.cancel()
        await asyncio.wait([left])
        live["a"].thaw()
        assert not (await ask(live.pool)).error
        assert live.state("a") == "ready"


@in_virtual_time
async def test_slow_replica_that_moves_is_not_taken_for_a_frozen_one() -> None:
    """A queue makes every first byte late; as long as other replies go on, the replica works."""
    settings = RoutingSettings.model_validate({"affinity": {"blocks": 0}})
    async with world("a", "b", settings=settings, answer_s=6.0, tokens=40, token_s=0.2) as live:
        answers = await live.traffic(20.0, every_s=0.5)
        assert not any(answer.error for answer in answers)
        assert not live.transitions


@in_virtual_time
async def test_lone_call_with_a_long_prefill_is_acquitted_by_the_probe() -> None:
    async with world("a", "b", answer_s=9.0) as live:
        answer = await ask(live.pool)
        assert answer.error is None
        assert len(live["a"].asked) + len(live["b"].asked) == 1
        assert not live.transitions


@in_virtual_time
async def test_crowd_at_a_frozen_replica_is_moved_as_the_budget_allows() -> None:
    async with world("a", "b", answer_s=2.0) as live:
        crowd = [asyncio.create_task(ask(live.pool, chat(streams=False))) for _ in range(100)]
        await asyncio.sleep(0.1)
        live["a"].freeze()
        answers = await asyncio.gather(*crowd)
        assert not any(answer.error for answer in answers)
        moved = sorted(answer.took_s for answer in answers)[50:]
        assert moved[19] < DETECTION_LIMIT_S + 2.5  # the burst
        assert moved[-1] < DETECTION_LIMIT_S + 2.5 + 30 / 3 + 0.6  # then three a second, while nobody else comes


@in_virtual_time
async def test_progress_on_anything_acquits_a_replica_whose_probe_is_late() -> None:
    async with world("a", "b", answer_s=0.1, tokens=8, token_s=3.0) as live:
        for one in live.replicas.values():
            one.probe_s = 5.0  # later than a probe may be
        answers = await asyncio.gather(*(ask(live.pool) for _ in range(2)))
        assert not any(answer.error for answer in answers)
        assert len(live["a"].probed) > 3
        assert not live.transitions


@in_virtual_time
async def test_call_that_may_have_had_an_effect_is_not_moved() -> None:
    async with world("a", "b") as live:
        for one in live.replicas.values():
            one.freeze()
        waiting = asyncio.create_task(ask(live.pool, replace(chat(), operation="responses")))
        await asyncio.sleep(15.0)
        assert live.transitions
        assert len(live["a"].asked) + len(live["b"].asked) == 1
        for one in live.replicas.values():
            one.thaw()
        assert not (await waiting).error


@in_virtual_time
async def test_call_that_nobody_else_can_take_is_left_where_it_is() -> None:
    """A frozen server that is woken goes on with what it was asked."""
    async with world("a") as live:
        live["a"].freeze()
        waiting = asyncio.create_task(ask(live.pool))
        await asyncio.sleep(20.0)
        assert live.state("a") != "ready"
        live["a"].thaw()
        assert (await waiting).body == b"aaa"


@in_virtual_time
async def test_frozen_predictor_gives_its_calls_to_another() -> None:
    async with world("a", "b", sees=False, answer_s=0.01) as live:
        live["a"].freeze()
        answers = await live.traffic(10.0, request=predict())
        assert not any(answer.error for answer in answers)
        assert max(answer.took_s for answer in answers) < DETECTION_LIMIT_S + 0.5


@in_virtual_time
async def test_late_first_byte_alone_moves_a_stream_when_nobody_watches() -> None:
    async with world("a", "b", watched=False) as live:
        live["a"].freeze()
        answers = await asyncio.gather(*(ask(live.pool) for _ in range(4)))
        assert {answer.body for answer in answers} == {b"bbb"}
        assert max(answer.took_s for answer in answers) < 10.5
        assert live.state("a") == "ejected"


@in_virtual_time
async def test_callers_who_leave_early_do_not_hide_a_frozen_replica() -> None:
    async with world("a") as live:
        live["a"].freeze()
        reasons = []
        for _ in range(20):
            reasons.append((await ask(live.pool, chat(timeout_s=0.5))).error.reason)
            await asyncio.sleep(0.1)
        assert reasons[0] == "deadline"
        assert reasons[-1] == "no_replica"
        assert reasons.index("no_replica") * 0.6 < DETECTION_LIMIT_S + 0.6
