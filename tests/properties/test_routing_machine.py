"""A pool under any order of faults, callers and time: nothing leaks, nothing waits for ever, everything heals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.inference.virtual_time import run
from inference.errors import BackendBroke, BackendRejected, BackendUnavailable
from inference.routing import RoutingSettings
from inference.routing.budget import Budget
from inference.routing.health import Event, ReplicaHealth, State
from inference.routing.settings import EjectionSettings
from tests.unit.inference.routing.driving import Answer, World, ask, world
from tests.unit.inference.routing.fakes import FakeReplica, chat, predict

FAULTS: dict[str, Callable[[FakeReplica], None]] = {
    "freeze": FakeReplica.freeze,
    "thaw": FakeReplica.thaw,
    "sleep": FakeReplica.sleep,
    "wake": FakeReplica.wake,
    "kill": FakeReplica.kill,
    "restart": FakeReplica.restart,
    "break": lambda one: setattr(one, "error", BackendBroke("upstream_500")),
    "fill": lambda one: setattr(one, "error", BackendUnavailable("busy", retry_after_s=1.0)),
    "reject": lambda one: setattr(one, "error", BackendRejected("not_found")),
}
REQUESTS = {
    "stream": chat(timeout_s=15.0),
    "plain": chat(streams=False, timeout_s=15.0),
    "predict": predict(timeout_s=5.0),
}
STEPS = st.one_of(
    st.tuples(st.sampled_from(sorted(FAULTS)), st.sampled_from("abc")),
    st.tuples(st.just("ask"), st.sampled_from(sorted(REQUESTS))),
    st.tuples(st.just("ask and leave"), st.sampled_from(sorted(REQUESTS))),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.7, 3.0, 12.0])),
)
HEALED_WITHIN_S = 60.0


@settings(max_examples=80, deadline=None)
@given(st.lists(STEPS, max_size=30), st.sampled_from(["a", "ab", "abc"]), st.booleans(), st.sampled_from([0.0, 0.2]))
def test_nothing_leaks_and_everything_heals(
    steps: list[tuple[str, object]], names: str, watched: bool, hedge_ratio: float
) -> None:
    run(lived(steps, names, watched, hedge_ratio))


async def lived(steps: list[tuple[str, object]], names: str, watched: bool, hedge_ratio: float) -> None:
    options = RoutingSettings.model_validate({"hedge": {"ratio": hedge_ratio, "min_calls": 8}})
    async with world(*names, settings=options, watched=watched) as live:
        tasks: list[asyncio.Task[Answer]] = []
        for what, which in steps:
            await step(live, what, which, tasks)
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 3 * 15.0 + 1)
        assert not [one for one in answers if isinstance(one, Exception)]  # a pool raises backend errors alone
        assert all(one.took_s <= 15.5 for one in answers if isinstance(one, Answer))
        for one in live.pool._replicas:
            assert (one.in_flight, one.progress.owed, one.waiting) == (0, 0, set())
        assert all(one.under_way == 0 for one in live.replicas.values())
        await healed(live)


async def step(live: World, what: str, which: object, tasks: list[asyncio.Task[Answer]]) -> None:
    if what in FAULTS:
        if which in live.replicas:
            FAULTS[what](live[which])
    elif what == "wait":
        await asyncio.sleep(which)
    else:
        task = asyncio.create_task(ask(live.pool, REQUESTS[which]))
        tasks.append(task)
        if what == "ask and leave":
            await asyncio.sleep(0.03)
            task.cancel()


async def healed(live: World) -> None:
    for one in live.replicas.values():
        one.restart()
        one.wake()
    await live.traffic(HEALED_WITHIN_S, every_s=0.25)
    assert {one.state for one in live.pool.snapshot()} == {State.READY}
    assert not any(answer.error for answer in await live.traffic(2.0))


@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 10.0),
    st.floats(1.0, 20.0),
    st.lists(st.tuples(st.sampled_from(["call", "take"]), st.floats(0.0, 2.0)), max_size=200),
)
def test_budget_never_gives_more_than_it_was_given(
    ratio: float, per_s: float, burst: float, steps: list[tuple[str, float]]
) -> None:
    budget, now_s, calls, taken = Budget(ratio, per_s, burst), 100.0, 0, 0
    for what, span_s in steps:
        now_s += span_s
        if what == "call":
            budget.note_call()
            calls += 1
        else:
            taken += budget.take(now_s)
    assert taken <= burst + ratio * calls + per_s * (now_s - 100.0) + 1e-6


@given(st.lists(st.tuples(st.sampled_from(["fail", "eject", "lease", *Event]), st.floats(0.0, 40.0)), max_size=100))
def test_from_every_state_time_and_one_good_probe_lead_back(steps: list[tuple[str, float]]) -> None:
    health, now_s, lease = ReplicaHealth("a", EjectionSettings(), lambda _: None, lambda: 0.5), 0.0, 0
    for what, span_s in steps:
        now_s += span_s
        match what:
            case "fail":
                health.fail("cut", now_s)
            case "eject":
                health.eject("stalled", now_s)
            case "lease":
                lease = health.lease_probe(now_s) or lease
            case Event.PROBE_SUCCEEDED | Event.PROBE_FAILED | Event.PROBE_ABANDONED:
                health.settle(lease, what, now_s)
    if health.state is not State.READY:
        now_s += 30.0
        second = health.lease_probe(now_s)
        assert second
        assert not health.lease_probe(now_s)
        health.settle(second, Event.PROBE_SUCCEEDED, now_s)
    assert health.state is State.READY
