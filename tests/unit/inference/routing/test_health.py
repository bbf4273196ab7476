"""The state machine of one replica, as a table and in words."""

from __future__ import annotations

import pytest

from inference.routing.health import TRANSITIONS, Event, ReplicaHealth, State, Transition
from inference.routing.settings import EjectionSettings


@pytest.fixture
def told() -> list[Transition]:
    return []


@pytest.fixture
def health(told: list[Transition]) -> ReplicaHealth:
    return ReplicaHealth("a", EjectionSettings(jitter_ratio=0.0), told.append, lambda: 0.5)


def test_every_state_but_ready_can_be_left_towards_ready() -> None:
    assert TRANSITIONS.keys() == set(State)
    for state in State:
        reached, seen = {state}, set()
        while reached - seen:
            seen |= reached
            reached = {after for one in seen for after in TRANSITIONS[one].values()}
        assert State.READY in seen


def test_failures_in_a_row_eject_with_the_last_ones_reason(health: ReplicaHealth, told: list[Transition]) -> None:
    for _ in range(2):
        health.fail("upstream_500", 1.0)
    health.succeed()
    for _ in range(2):
        health.fail("upstream_500", 1.0)
    assert health.state is State.READY
    health.fail("cut", 2.0)
    assert (health.state, health.reason) == (State.EJECTED, "cut")
    assert told == [Transition("a", State.READY, State.EJECTED, "cut", 2.0)]


def test_probe_is_leased_once_and_only_after_the_back_off(health: ReplicaHealth) -> None:
    assert health.lease_probe(0.0) == 0
    health.eject("stalled", 10.0)
    assert health.retry_after_s(10.4) == pytest.approx(0.6)
    assert health.lease_probe(10.9) == 0
    lease = health.lease_probe(11.0)
    assert lease
    assert health.lease_probe(11.0) == 0
    health.settle(lease, Event.PROBE_SUCCEEDED, 11.5)
    assert (health.state, health.reason, health.retry_after_s(12.0)) == (State.READY, "", None)


def test_probe_that_never_reports_loses_its_place_and_its_word(health: ReplicaHealth) -> None:
    health.eject("stalled", 0.0)
    lost = health.lease_probe(1.0)
    assert health.retry_after_s(1.0) == 30.0
    assert health.lease_probe(30.9) == 0
    second = health.lease_probe(31.0)
    assert second
    health.settle(lost, Event.PROBE_FAILED, 32.0)
    assert health.state is State.HALF_OPEN
    health.settle(second, Event.PROBE_SUCCEEDED, 33.0)
    assert health.state is State.READY


def test_back_off_doubles_to_its_limit_and_is_forgiven_after_good_behaviour(health: ReplicaHealth) -> None:
    spans, now_s = [], 0.0
    health.eject("stalled", now_s)
    for _ in range(6):
        span_s = health.retry_after_s(now_s) or 0.0
        spans.append(span_s)
        now_s += span_s
        health.settle(health.lease_probe(now_s), Event.PROBE_FAILED, now_s, "probe_timeout")
    assert spans == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    now_s += 15.0
    health.settle(health.lease_probe(now_s), Event.PROBE_SUCCEEDED, now_s)
    health.eject("stalled", now_s + 59.0)
    assert health.retry_after_s(now_s + 59.0) == 15.0
    health.settle(health.lease_probe(now_s + 80.0), Event.PROBE_SUCCEEDED, now_s + 80.0)
    health.eject("stalled", now_s + 141.0)
    assert health.retry_after_s(now_s + 141.0) == 1.0


def test_abandoned_probe_costs_no_time(health: ReplicaHealth) -> None:
    health.eject("stalled", 0.0)
    health.settle(health.lease_probe(1.0), Event.PROBE_ABANDONED, 1.5)
    assert health.lease_probe(1.5)


def test_late_failures_of_an_ejected_replica_add_nothing(health: ReplicaHealth, told: list[Transition]) -> None:
    health.eject("stalled", 0.0)
    for _ in range(10):
        health.fail("cut", 0.5)
    health.eject("asleep", 0.6)
    assert len(told) == 1
    assert health.reason == "stalled"


def test_hastened_replica_is_probed_at_once_and_a_ready_one_is_left_alone(health: ReplicaHealth) -> None:
    health.hasten(0.0)
    health.eject("asleep", 1.0)
    health.hasten(1.2)
    assert health.lease_probe(1.2)


def test_jitter_spreads_the_back_off_both_ways() -> None:
    for draw, span_s in ((0.0, 0.8), (0.999999, 1.2)):
        health = ReplicaHealth("a", EjectionSettings(), lambda _: None, lambda draw=draw: draw)
        health.eject("stalled", 0.0)
        assert health.retry_after_s(0.0) == pytest.approx(span_s, abs=0.001)
