from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.drift.states import SERVING, TRANSITIONS, Event, IllegalTransition, Serving, State, after

FALLBACK = {Serving.FALLBACK, Serving.FALLBACK_AND_CHALLENGER}


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_whatever_happens_a_bad_version_answers_nobody_until_something_better_is_there(events: list[Event]) -> None:
    """Only a promotion or a human brings the primary back after DEGRADED; events that cannot happen change nothing."""
    state, bad = State.LEARNING, False
    for event in events:
        try:
            state = after(state, event)
        except IllegalTransition:
            assert event not in TRANSITIONS[state]
            continue
        if event is Event.RISK_LEFT_BAND:
            bad = True
        if event in (Event.WON, Event.REVIEWED):
            bad = False
        assert (SERVING[state] in FALLBACK) == bad


def test_every_state_is_in_both_tables_and_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(SERVING) == set(State)
    reached = {target for row in TRANSITIONS.values() for target in row.values()} | {State.LEARNING}
    assert reached == set(State)
    assert all(TRANSITIONS[state] for state in State)


def test_healthy_can_be_reached_from_every_state() -> None:
    for start in State:
        seen, front = {start}, [start]
        while front:
            nexts = set(TRANSITIONS[front.pop()].values()) - seen
            seen |= nexts
            front += nexts
        assert State.HEALTHY in seen
