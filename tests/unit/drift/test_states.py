from __future__ import annotations

import subprocess
import sys

import pytest

from controlplane.drift.states import (
    TRANSITIONS,
    Event,
    IllegalTransition,
    Serving,
    State,
    after,
    is_allowed,
    line_of,
    serving_after,
)

WHOLE = [
    (Event.REFERENCE_LEARNT, State.HEALTHY, Serving.PRIMARY),
    (Event.RISK_LEFT_BAND, State.DEGRADED, Serving.PRIMARY),
    (Event.FALLBACK_BETTER, State.DEGRADED, Serving.FALLBACK),
    (Event.RETRAIN, State.RETRAINING, Serving.FALLBACK),
    (Event.TRAINED, State.SHADOW, Serving.FALLBACK),
    (Event.SHADOW_PASSED, State.CANARY, Serving.FALLBACK),
    (Event.STEP_PASSED, State.CANARY, Serving.FALLBACK),
    (Event.WON, State.PROMOTED, Serving.PRIMARY),
    (Event.SETTLED, State.HEALTHY, Serving.PRIMARY),
]


def test_the_whole_loop_is_a_path_through_the_table() -> None:
    state, serving = State.LEARNING, Serving.PRIMARY
    for event, target, who in WHOLE:
        line = line_of(state, event)
        state, serving = line.target, serving_after(serving, line)
        assert (state, serving) == (target, who)


def test_a_refused_challenger_leads_back_to_where_it_began() -> None:
    assert after(State.CANARY, Event.LOST) is after(State.SHADOW, Event.LOST) is State.ROLLED_BACK
    assert after(State.ROLLED_BACK, Event.CHAMPION_KEPT) is State.DEGRADED


def test_a_suspicion_changes_nobody_s_answers() -> None:
    assert Event.RETRAIN not in TRANSITIONS[State.WARN]
    assert line_of(State.HEALTHY, Event.SUSPECTED).serving is None


def test_nothing_is_promoted_that_was_not_in_shadow_or_canary() -> None:
    sources = {state for state in State if is_allowed(state, State.PROMOTED)}
    assert sources == {State.SHADOW, State.CANARY}


def test_what_the_table_does_not_have_raises() -> None:
    with pytest.raises(IllegalTransition) as raised:
        after(State.HEALTHY, Event.WON)
    assert (raised.value.state, raised.value.event) == (State.HEALTHY, Event.WON)


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("controlplane.drift.ring", {"numpy", "pandas", "evidently", "sqlite3"}),
        ("controlplane.drift.states", {"numpy", "pandas", "evidently", "sqlite3"}),
        ("controlplane.monitor", {"pandas", "evidently", "sklearn", "scipy", "tensorflow"}),
    ],
)
def test_what_the_gateway_takes_from_here_is_light_and_the_monitor_loads_no_report_library(
    module: str, banned: set[str]
) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not loaded & banned
