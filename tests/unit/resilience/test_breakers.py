"""The registry: one breaker per target and version, bounded, held by name, told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from controlplane.resilience.breaker import CircuitBreaker, State, Transition, Verdict
from controlplane.resilience.breakers import Breakers, GuardedByVersion, breaker_name, target_in
from controlplane.resilience.settings import BreakerSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendUnavailable
from inference.whole import Whole
from tests.unit.resilience.fakes import FakeBackend, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


def registry(clock: FakeClock, **more: int) -> Breakers:
    return Breakers(lambda _: BreakerSettings(), clock, jitter=lambda: 0.5, **more)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("risk", 2, None), "risk/2"),
        (("risk", None, "stable"), "risk@stable"),
        (("risk", None, None), "risk"),
        (("meta/llama", None, None), "meta/llama"),
        (("meta/llama", 3, None), "meta/llama/3"),
    ],
)
def test_name_tells_target_and_version_apart(parts: tuple, name: str) -> None:
    assert breaker_name(*parts) == name
    assert target_in(name) == parts[0]


def test_same_version_shares_a_breaker_and_another_has_its_own(clock: FakeClock) -> None:
    breakers = registry(clock)
    assert breakers.of("risk", 2) is breakers.of("risk", 2)
    assert breakers.of("risk", 2) is not breakers.of("risk", 3)


def test_settings_are_those_of_the_target(clock: FakeClock) -> None:
    chat = BreakerSettings(connect_failures=1)
    breakers = Breakers({"tiny": chat, "risk": BreakerSettings()}.__getitem__, clock)
    for name in ("tiny", "risk"):
        breaker = breakers.of(name, 1)
        breaker.report(breaker.admit(0.0), Verdict.UNREACHABLE, 0.0, 0.0)
    assert [status.state for status in breakers.snapshot()] == [State.CLOSED, State.OPEN]


async def test_hold_stops_one_version_and_no_other(clock: FakeClock) -> None:
    breakers = registry(clock)
    inner = FakeBackend(clock)
    backend = GuardedByVersion(inner, breakers, clock)
    assert breakers.hold("risk/2", "drift_verdict")
    with pytest.raises(BackendUnavailable, match="drift_verdict"):
        async with backend.send(BackendRequest(call_id="1", target="risk", operation="Predict", version=2)):
            pass
    async with backend.send(BackendRequest(call_id="1", target="risk", operation="Predict", version=1)) as reply:
        assert reply.status == 200
    assert [request.version for request in inner.requests] == [1]
    assert breakers.release("risk/2", "drift_verdict")
    assert breakers.of("risk", 2).state is State.HALF_OPEN


def test_releasing_what_nobody_holds_changes_nothing(clock: FakeClock) -> None:
    breakers = registry(clock)
    assert not breakers.release("risk/2", "operator")
    assert breakers.snapshot() == []


def test_snapshot_shows_state_reason_holds_and_counts(clock: FakeClock) -> None:
    breakers = registry(clock)
    breaker = breakers.of("risk", 2)
    for verdict in (Verdict.SUCCEEDED, Verdict.FAILED):
        breaker.report(breaker.admit(clock.now_s), verdict, 0.0, clock.now_s)
    (status,) = breakers.snapshot()
    assert (status.name, status.state, status.calls, status.failed) == ("risk/2", State.CLOSED, 2, 1)
    breakers.hold("risk/2", "operator")
    (status,) = breakers.snapshot()
    assert (status.state, status.reason, status.holds, status.since_s) == (
        State.HELD,
        "operator",
        ("operator",),
        100.0,
    )


def test_invented_versions_do_not_fill_memory_nor_push_out_a_verdict(clock: FakeClock) -> None:
    breakers = registry(clock, max_breakers=10)
    breakers.hold("risk/2", "drift_verdict")
    dead = breakers.of("risk", 1)
    for _ in range(5):
        dead.report(dead.admit(clock.now_s), Verdict.UNREACHABLE, 0.0, clock.now_s)
    for version in range(100, 1000):
        breakers.of("risk", version)
    names = {status.name for status in breakers.snapshot()}
    assert len(names) == 10
    assert {"risk/1", "risk/2", "risk/999"} <= names


def test_holds_alone_may_exceed_the_bound_and_are_all_kept(clock: FakeClock) -> None:
    breakers = registry(clock, max_breakers=2)
    for version in range(5):
        breakers.hold(f"risk/{version}", "operator")
    assert len(breakers.snapshot()) == 5


def test_listener_that_fails_hurts_nobody(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    breakers, told = registry(clock), []

    def broken(_: Transition) -> None:
        raise RuntimeError("metrics are down")

    breakers.listen(broken)
    breakers.listen(told.append)
    with caplog.at_level(logging.ERROR):
        breakers.hold("risk/2", "operator")
    assert [move.after for move in told] == [State.HELD]
    assert "metrics are down" in caplog.text


async def test_of_two_hundred_callers_one_probes_at_a_time_until_a_round_of_four_has_closed_it(
    clock: FakeClock,
) -> None:
    breakers = registry(clock)
    breaker = breakers.of("risk", 2)
    for _ in range(5):
        breaker.report(breaker.admit(clock.now_s), Verdict.UNREACHABLE, 0.0, clock.now_s)
    clock.now_s += 5.0
    inner = Busy(breaker)
    backend = GuardedByVersion(inner, breakers, clock)

    async def caller() -> None:
        while True:
            with suppress(BackendUnavailable):
                async with backend.send(BackendRequest(call_id="1", target="risk", operation="Predict", version=2)):
                    return
            await asyncio.sleep(0)

    await asyncio.gather(*(caller() for _ in range(200)))
    assert (inner.probes, inner.most_probes) == (4, 1)
    assert inner.calls == 200
    assert breaker.counts(clock.now_s).calls == 196


@dataclass
class Busy:
    """Takes a few turns of the event loop for each call."""

    breaker: CircuitBreaker
    calls: int = 0
    probes: int = 0
    probing: int = 0
    most_probes: int = 0

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        is_probe = self.breaker.state is State.HALF_OPEN
        self.calls += 1
        self.probes += is_probe
        self.probing += is_probe
        self.most_probes = max(self.most_probes, self.probing)
        for _ in range(5):
            await asyncio.sleep(0)
        self.probing -= is_probe
        yield BackendReply(200, (), Whole(b"answer"))


def test_listeners_hear_of_every_hold_and_one_that_fails_hurts_nobody(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    breakers, told = registry(clock), []

    def broken(name: str, reason: str, is_held: bool) -> None:
        raise RuntimeError("sharing is down")

    breakers.listen_to_holds(broken)
    breakers.listen_to_holds(lambda *said: told.append(said))
    with caplog.at_level(logging.ERROR):
        breakers.hold("risk/2", "operator")
        breakers.hold("risk/2", "operator")
        breakers.hold("risk/2", "drift")
        breakers.release("risk/2", "nobody")
        breakers.release("risk/2", "operator")
    assert told == [("risk/2", "operator", True), ("risk/2", "drift", True), ("risk/2", "operator", False)]
    assert breakers.holds() == [("risk/2", "drift")]
    assert "sharing is down" in caplog.text


def test_breaker_that_was_added_has_its_own_settings_and_is_never_forgotten(clock: FakeClock) -> None:
    breakers = registry(clock, max_breakers=1)
    breaker = breakers.add("tool:refund", BreakerSettings(connect_failures=1))
    breaker.report(breaker.admit(0.0), Verdict.UNREACHABLE, 0.0, 0.0)
    assert breaker.state is State.OPEN
    for version in range(20):
        breakers.of("risk", version)
    assert breakers.of("tool:refund") is breaker
    breakers.hasten("tool:refund")
    breakers.hasten("never heard of")
    assert breaker.retry_after_s(clock.now_s) == 0.0
