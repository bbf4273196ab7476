from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from controlplane.drift.states import (
    TABLE,
    TRANSITIONS,
    Event,
    IllegalTransition,
    Serving,
    State,
    line_of,
    serving_after,
)

BRINGS_BACK = {Event.WON, Event.REVIEWED, Event.ROWS_SOUND, Event.REFERENCE_LEARNT}
TAKES_AWAY = {Event.FALLBACK_BETTER, Event.FALLBACK_CHOSEN, Event.ROWS_MOSTLY_BROKEN}


@given(st.lists(st.sampled_from(Event), max_size=80))
def test_whatever_happens_the_fallback_answers_from_proof_to_repair(events: list[Event]) -> None:
    """Only a promotion, a human or sound rows bring the primary back; events that cannot happen change nothing."""
    state, serving, away = State.LEARNING, Serving.PRIMARY, False
    for event in events:
        try:
            line = line_of(state, event)
        except IllegalTransition:
            assert event not in TRANSITIONS[state]
            continue
        state, serving = line.target, serving_after(serving, line)
        away = (away or event in TAKES_AWAY) and event not in BRINGS_BACK
        if event is Event.RISK_LEFT_BAND and serving is not Serving.FALLBACK:
            away = False  # rows were broken until now; they no longer decide
        assert (serving is Serving.FALLBACK) == away


@given(st.lists(st.sampled_from(Event), max_size=80))
def test_nobody_is_answered_by_a_challenger_that_has_not_passed_its_shadow(events: list[Event]) -> None:
    state, passed = State.LEARNING, False
    for event in events:
        if event not in TRANSITIONS[state]:
            continue
        state = line_of(state, event).target
        passed = event in (Event.SHADOW_PASSED, Event.WON) or (passed and event is Event.STEP_PASSED)
        assert passed or state not in (State.CANARY, State.PROMOTED)


def test_a_suspicion_and_broken_rows_never_retrain() -> None:
    leading = {line.source for line in TABLE if line.event is Event.RETRAIN}
    assert leading == {State.DEGRADED}
    assert {line.event for line in TABLE if line.target is State.DEGRADED and line.source is not State.DEGRADED} == {
        Event.RISK_LEFT_BAND,
        Event.CHAMPION_KEPT,
        Event.TRAINING_PUT_OFF,
    }


def test_the_table_has_one_line_for_a_state_and_an_event_and_lines_of_a_state_stand_together() -> None:
    assert len({(line.source, line.event) for line in TABLE}) == len(TABLE)
    assert len([state for state, _ in groupby(line.source for line in TABLE)]) == len(State)
    assert {line.event for line in TABLE} == set(Event)


def test_every_state_can_be_reached_and_left() -> None:
    assert {line.target for line in TABLE} | {State.LEARNING} == set(State)
    assert all(TRANSITIONS[state] for state in State)


def test_healthy_can_be_reached_from_every_state() -> None:
    for start in State:
        seen, front = {start}, [start]
        while front:
            nexts = {line.target for line in TRANSITIONS[front.pop()].values()} - seen
            seen |= nexts
            front += nexts
        assert State.HEALTHY in seen
