"""The breaker against a model of it, and two promises: one probe at a time, and a healed backend heals its breaker."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.resilience.breaker import TRANSITIONS, Cause, CircuitBreaker, Permit, State, Transition, Verdict
from controlplane.resilience.settings import BreakerSettings

SETTINGS = BreakerSettings(min_calls=4, stretch_calls=6, connect_failures=3, probes=3, probe_success_ratio=0.6)
VERDICTS = st.sampled_from(Verdict)
ELAPSED_S = st.sampled_from([0.0, 0.1, 0.8, 5.0])
JITTERS = st.floats(0, 1, exclude_max=True)
HOLDERS = ["drift_verdict", "operator"]
FAILURES = {Verdict.FAILED, Verdict.UNREACHABLE, Verdict.SILENT, Verdict.STALLED}


def lesson(verdict: Verdict, *, slow: bool) -> str:
    """What the rules say in words: ``good``, ``slow``, ``failed`` or "" for nothing learnt."""
    if verdict in FAILURES or (verdict is Verdict.LATE and slow):
        return "failed"
    if verdict is Verdict.SUCCEEDED:
        return "slow" if slow else "good"
    return "slow" if verdict is Verdict.ABANDONED and slow else ""


class BreakerMachine(RuleBasedStateMachine):
    """The model keeps what it saw: every counted call of this closed spell, the probes under way, the holds."""

    @initialize(jitter=JITTERS)
    def start(self, jitter: float) -> None:
        self.now_s = 0.0
        self.told: list[Transition] = []
        self.tested = CircuitBreaker("m/1", SETTINGS, jitter=lambda: jitter, listener=self.hear)
        self.out: list[Permit] = []
        self.probes: dict[Permit, float] = {}
        self.counted: list[tuple[float, Verdict, str]] = []
        self.holds: set[str] = set()

    def hear(self, transition: Transition) -> None:
        self.told.append(transition)
        self.probes.clear()
        self.counted.clear()

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def call(self) -> None:
        before = self.tested.state
        permit = self.tested.admit(self.now_s)
        if before is State.HELD:
            assert permit is None
        elif before is State.CLOSED:
            assert permit is not None
        if permit is None:
            return
        self.out.append(permit)
        if self.tested.state is State.HALF_OPEN:
            self.probes = {probe: ends_s for probe, ends_s in self.probes.items() if self.now_s < ends_s}
            assert not self.probes, "a second probe beside one under way"
            self.probes[permit] = self.now_s + SETTINGS.probe_lease_s

    @precondition(lambda self: self.out)
    @rule(data=st.data(), verdict=VERDICTS, elapsed_s=ELAPSED_S)
    def answer(self, data: st.DataObject, verdict: Verdict, elapsed_s: float) -> None:
        self.finish(data.draw(st.integers(0, len(self.out) - 1)), verdict, elapsed_s)

    @rule()
    def seen_to_work_elsewhere(self) -> None:
        before = self.tested.state
        self.tested.hasten(self.now_s)
        assert self.tested.state is before
        if before is State.OPEN:
            assert self.tested.retry_after_s(self.now_s) == 0

    @rule(verdicts=st.lists(VERDICTS, max_size=8), elapsed_s=ELAPSED_S)
    def traffic(self, verdicts: list[Verdict], elapsed_s: float) -> None:
        for verdict in verdicts:
            under_way = len(self.out)
            self.call()
            if len(self.out) > under_way:
                self.finish(-1, verdict, elapsed_s)

    def finish(self, index: int, verdict: Verdict, elapsed_s: float) -> None:
        permit = self.out.pop(index)
        before, moves = self.tested.state, len(self.told)
        learnt = lesson(verdict, slow=elapsed_s >= SETTINGS.slow_call_s)
        ignored = permit.generation != len(self.told) or not learnt
        expected = ""
        if before is State.CLOSED and not ignored:
            self.counted.append((self.now_s, verdict, learnt))
            expected = self.expected_reason()
        self.tested.report(permit, verdict, elapsed_s, self.now_s)
        self.probes.pop(permit, None)
        if ignored:
            assert self.tested.state is before
        elif before is State.CLOSED:
            assert (self.told[-1].reason if len(self.told) > moves else "") == expected

    def expected_reason(self) -> str:
        """The word for why the breaker must open now, "" when it must not: the window counted the slow way."""
        verdicts = [verdict for _, verdict, _ in self.counted]
        if self.counted[-1][2] == "good":
            return ""  # no good call opens a breaker
        if len(verdicts) >= 3 and set(verdicts[-3:]) == {Verdict.UNREACHABLE}:
            return "connect_failures"
        seen: list[tuple[Verdict, str]] = []
        for age in range(60):
            if age >= 10 and len(seen) >= SETTINGS.stretch_calls:
                break
            seen += [(v, learnt) for at_s, v, learnt in self.counted if int(self.now_s) - int(at_s) == age]
        failed = [verdict for verdict, learnt in seen if learnt == "failed"]
        slow = [verdict for verdict, learnt in seen if learnt == "slow"]
        if len(seen) < SETTINGS.min_calls:
            return ""
        if len(failed) < len(seen) / 2:
            return "slow_rate" if len(failed) + len(slow) >= len(seen) / 2 else ""
        for verdict, word in ((Verdict.SILENT, "first_token_late"), (Verdict.STALLED, "stalled")):
            if failed.count(verdict) > len(failed) / 2:
                return word
        return "error_rate"

    @rule(reason=st.sampled_from(HOLDERS))
    def hold(self, reason: str) -> None:
        assert self.tested.hold(reason, self.now_s) is (reason not in self.holds)
        self.holds.add(reason)

    @rule(reason=st.sampled_from(HOLDERS))
    def release(self, reason: str) -> None:
        assert self.tested.release(reason, self.now_s) is (reason in self.holds)
        self.holds.discard(reason)

    @invariant()
    def held_exactly_while_somebody_holds(self) -> None:
        if hasattr(self, "tested"):
            assert (self.tested.state is State.HELD) == bool(self.holds)

    @invariant()
    def told_of_every_move_and_each_is_legal(self) -> None:
        state = State.CLOSED
        for move in getattr(self, "told", ()):
            assert move.before is state
            assert move.after in TRANSITIONS[state].values()
            assert move.reason in {*Cause, *HOLDERS}
            state = move.after
        assert state is (self.tested.state if hasattr(self, "tested") else State.CLOSED)

    @invariant()
    def open_never_for_longer_than_the_limit(self) -> None:
        if hasattr(self, "tested") and self.tested.state is State.OPEN:
            wait_s = self.tested.retry_after_s(self.now_s)
            assert wait_s is not None
            assert wait_s <= SETTINGS.open_max_s * (1 + SETTINGS.jitter_ratio)

    def teardown(self) -> None:
        """Whatever has happened: nobody holds it and the backend is well, so the breaker heals."""
        if not hasattr(self, "tested"):
            return
        for reason in list(self.holds):
            self.tested.release(reason, self.now_s)
        self.now_s += SETTINGS.open_max_s * (1 + SETTINGS.jitter_ratio) + SETTINGS.probe_lease_s
        for _ in range(SETTINGS.probes * 2):
            permit = self.tested.admit(self.now_s)
            if permit is None:  # a round that was already half lost has reopened it
                self.now_s += SETTINGS.open_max_s * (1 + SETTINGS.jitter_ratio)
                continue
            self.tested.report(permit, Verdict.SUCCEEDED, 0.0, self.now_s)
        assert self.tested.state is State.CLOSED


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


@given(
    st.lists(st.tuples(VERDICTS, ELAPSED_S, st.floats(0, 30)), max_size=200),
    JITTERS,
)
@settings(deadline=None)
def test_healed_backend_always_heals_its_breaker(past: list[tuple[Verdict, float, float]], jitter: float) -> None:
    breaker, now_s = CircuitBreaker("m/1", BreakerSettings(), jitter=lambda: jitter), 0.0
    for verdict, elapsed_s, pause_s in past:
        now_s += pause_s
        if permit := breaker.admit(now_s):
            breaker.report(permit, verdict, elapsed_s, now_s)
    healed_s = now_s
    while breaker.state is not State.CLOSED:
        now_s += 0.5
        assert now_s - healed_s < 100, "one longest open time and one round of probes must be enough"
        if permit := breaker.admit(now_s):
            breaker.report(permit, Verdict.SUCCEEDED, 0.01, now_s)


async def test_of_two_hundred_concurrent_callers_exactly_one_probes() -> None:
    breaker = CircuitBreaker("m/1", BreakerSettings())
    for _ in range(20):
        permit = breaker.admit(0.0)
        assert permit is not None
        breaker.report(permit, Verdict.FAILED, 0.0, 0.0)
    answer, passed = asyncio.Event(), 0

    async def caller() -> None:
        nonlocal passed
        if permit := breaker.admit(5.0):
            passed += 1
            await answer.wait()
            breaker.report(permit, Verdict.SUCCEEDED, 0.0, 5.0)

    async with asyncio.TaskGroup() as callers:
        for _ in range(200):
            callers.create_task(caller())
        await asyncio.sleep(0)
        callers.create_task(release(answer))
    assert passed == 1
    assert breaker.state is State.HALF_OPEN


async def release(event: asyncio.Event) -> None:
    event.set()
