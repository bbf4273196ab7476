"""The life of a model version under watch, as one table. Pure: it knows no clock, no ledger and no gateway.

``TRANSITIONS`` says what may happen, ``SERVING`` says who answers meanwhile. The loop of today skips two
states: nothing leads to DATA_FAULT yet, and CANARY is jumped over, since a challenger that wins its shadow is promoted
at once (``WON`` in SHADOW). WARN is reached only when one principal alone shows errors; nobody watches the inputs yet.
The table holds them all so that it need not move.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    LEARNING = "LEARNING"  # the reference is being collected: reports, no verdicts
    HEALTHY = "HEALTHY"
    WARN = "WARN"  # a suspicion, from inputs or from one principal alone: look closer, never retrain
    DATA_FAULT = "DATA_FAULT"  # rows break their schema: those rows go to the fallback
    DEGRADED = "DEGRADED"  # labels prove that the risk left its band: the fallback answers
    RETRAINING = "RETRAINING"
    SHADOW = "SHADOW"  # a challenger is scored on rows it never saw, nobody is answered by it
    CANARY = "CANARY"  # a challenger answers a small share
    PROMOTED = "PROMOTED"  # the challenger is the model now
    ROLLED_BACK = "ROLLED_BACK"  # the challenger was refused


class Event(StrEnum):
    REFERENCE_LEARNT = "reference_learnt"
    SUSPECTED = "suspected"  # inputs moved, or one principal alone shows errors
    QUIET = "quiet"
    ROWS_BROKEN = "rows_broken"
    ROWS_SOUND = "rows_sound"
    RISK_LEFT_BAND = "risk_left_band"
    RETRAIN = "retrain"
    TRAINED = "trained"
    TRAINING_FAILED = "training_failed"
    SHADOW_PASSED = "shadow_passed"
    WON = "won"
    LOST = "lost"
    SETTLED = "settled"
    CHAMPION_KEPT = "champion_kept"  # a refused challenger leaves everything as it was
    REVIEWED = "reviewed"  # a human says that it is good again


class Serving(StrEnum):
    """Who answers the agents while a version is in a state."""

    PRIMARY = "primary"
    FALLBACK_FOR_BROKEN_ROWS = "fallback_for_broken_rows"
    FALLBACK = "fallback"
    FALLBACK_AND_CHALLENGER = "fallback_and_challenger"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.LEARNING: {
        Event.REFERENCE_LEARNT: State.HEALTHY,
    },
    State.HEALTHY: {
        Event.SUSPECTED: State.WARN,
        Event.ROWS_BROKEN: State.DATA_FAULT,
        Event.RISK_LEFT_BAND: State.DEGRADED,
    },
    State.WARN: {
        Event.QUIET: State.HEALTHY,
        Event.ROWS_BROKEN: State.DATA_FAULT,
        Event.RISK_LEFT_BAND: State.DEGRADED,
    },
    State.DATA_FAULT: {
        Event.ROWS_SOUND: State.HEALTHY,
        Event.RISK_LEFT_BAND: State.DEGRADED,
    },
    State.DEGRADED: {
        Event.RETRAIN: State.RETRAINING,
        Event.REVIEWED: State.HEALTHY,
    },
    State.RETRAINING: {
        Event.TRAINED: State.SHADOW,
        Event.TRAINING_FAILED: State.ROLLED_BACK,
    },
    State.SHADOW: {
        Event.SHADOW_PASSED: State.CANARY,
        Event.WON: State.PROMOTED,
        Event.LOST: State.ROLLED_BACK,
    },
    State.CANARY: {
        Event.WON: State.PROMOTED,
        Event.LOST: State.ROLLED_BACK,
    },
    State.PROMOTED: {
        Event.SETTLED: State.HEALTHY,
    },
    State.ROLLED_BACK: {
        Event.CHAMPION_KEPT: State.DEGRADED,
    },
}

SERVING: dict[State, Serving] = {
    State.LEARNING: Serving.PRIMARY,
    State.HEALTHY: Serving.PRIMARY,
    State.WARN: Serving.PRIMARY,
    State.DATA_FAULT: Serving.FALLBACK_FOR_BROKEN_ROWS,
    State.DEGRADED: Serving.FALLBACK,
    State.RETRAINING: Serving.FALLBACK,
    State.SHADOW: Serving.FALLBACK,
    State.CANARY: Serving.FALLBACK_AND_CHALLENGER,
    State.PROMOTED: Serving.PRIMARY,
    State.ROLLED_BACK: Serving.FALLBACK,
}


class IllegalTransition(Exception):
    """Something was said to happen that cannot happen in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event} while {state}")
        self.state, self.event = state, event


def after(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        IllegalTransition: the table has no such line.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None


def is_allowed(source: State, target: State) -> bool:
    """Whether any event leads from ``source`` to ``target``: what a recorder of transitions checks."""
    return target in TRANSITIONS[source].values()
