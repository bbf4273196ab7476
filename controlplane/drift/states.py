"""The life of a model version under watch, as one table. Pure: it knows no clock, no ledger and no gateway.

``TABLE`` says what may happen, where it leads and who answers from then on. What must have been seen before an event is
said to have happened, and for how long it must be gone before the next one is, stands in ``hysteresis.py`` (blocks of
rows) and in ``retraining`` (tests on labelled rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    LEARNING = "LEARNING"  # the reference is being collected: reports, no verdicts
    HEALTHY = "HEALTHY"
    WARN = "WARN"  # a suspicion, from inputs or from one principal alone: look closer, never retrain
    DATA_FAULT = "DATA_FAULT"  # rows break their schema: those rows go to the fallback
    DEGRADED = "DEGRADED"  # labels prove that the risk left its band
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
    ROWS_MOSTLY_BROKEN = "rows_mostly_broken"
    ROWS_SOUND = "rows_sound"
    RISK_LEFT_BAND = "risk_left_band"
    FALLBACK_BETTER = "fallback_better"  # on the same labelled rows, credibly
    HUMAN_ASKED = "human_asked"  # the loop cannot decide; it goes on, and waits for a word
    FALLBACK_CHOSEN = "fallback_chosen"  # a human: let the fallback answer
    RETRAIN_GRANTED = "retrain_granted"  # a human: try again
    RETRAIN = "retrain"
    TRAINED = "trained"
    TRAINING_FAILED = "training_failed"
    TRAINING_PUT_OFF = "training_put_off"  # nobody was there to train: tried again later, and no attempt is spent
    SHADOW_PASSED = "shadow_passed"
    STEP_PASSED = "step_passed"  # a larger share is tried
    WON = "won"
    LOST = "lost"
    SETTLED = "settled"
    CHAMPION_KEPT = "champion_kept"  # a refused challenger leaves everything as it was
    REVIEWED = "reviewed"  # a human says that it is good again


class Serving(StrEnum):
    """Who answers the agents. A canary answers its share of them besides."""

    PRIMARY = "primary"
    FALLBACK_FOR_BROKEN_ROWS = "fallback_for_broken_rows"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Line:
    """``serving`` None: whoever answered goes on answering."""

    source: State
    event: Event
    target: State
    serving: Serving | None = None


def _table() -> tuple[Line, ...]:
    s, e, who = State, Event, Serving
    return (
        Line(s.LEARNING, e.REFERENCE_LEARNT, s.HEALTHY, who.PRIMARY),
        Line(s.HEALTHY, e.SUSPECTED, s.WARN),
        Line(s.HEALTHY, e.ROWS_BROKEN, s.DATA_FAULT, who.FALLBACK_FOR_BROKEN_ROWS),
        Line(s.HEALTHY, e.ROWS_MOSTLY_BROKEN, s.DATA_FAULT, who.FALLBACK),
        Line(s.HEALTHY, e.RISK_LEFT_BAND, s.DEGRADED),
        Line(s.WARN, e.QUIET, s.HEALTHY),
        Line(s.WARN, e.ROWS_BROKEN, s.DATA_FAULT, who.FALLBACK_FOR_BROKEN_ROWS),
        Line(s.WARN, e.ROWS_MOSTLY_BROKEN, s.DATA_FAULT, who.FALLBACK),
        Line(s.WARN, e.RISK_LEFT_BAND, s.DEGRADED),
        Line(s.DATA_FAULT, e.ROWS_MOSTLY_BROKEN, s.DATA_FAULT, who.FALLBACK),
        Line(s.DATA_FAULT, e.ROWS_SOUND, s.HEALTHY, who.PRIMARY),
        Line(s.DATA_FAULT, e.RISK_LEFT_BAND, s.DEGRADED, who.FALLBACK_FOR_BROKEN_ROWS),
        Line(s.DEGRADED, e.FALLBACK_BETTER, s.DEGRADED, who.FALLBACK),
        Line(s.DEGRADED, e.HUMAN_ASKED, s.DEGRADED),
        Line(s.DEGRADED, e.FALLBACK_CHOSEN, s.DEGRADED, who.FALLBACK),
        Line(s.DEGRADED, e.RETRAIN_GRANTED, s.DEGRADED),
        Line(s.DEGRADED, e.REVIEWED, s.HEALTHY, who.PRIMARY),
        Line(s.DEGRADED, e.RETRAIN, s.RETRAINING),
        Line(s.RETRAINING, e.TRAINED, s.SHADOW),
        Line(s.RETRAINING, e.TRAINING_FAILED, s.ROLLED_BACK),
        Line(s.RETRAINING, e.TRAINING_PUT_OFF, s.DEGRADED),
        Line(s.SHADOW, e.SHADOW_PASSED, s.CANARY),
        Line(s.SHADOW, e.WON, s.PROMOTED, who.PRIMARY),  # where no canary is wanted
        Line(s.SHADOW, e.LOST, s.ROLLED_BACK),
        Line(s.CANARY, e.STEP_PASSED, s.CANARY),
        Line(s.CANARY, e.WON, s.PROMOTED, who.PRIMARY),
        Line(s.CANARY, e.LOST, s.ROLLED_BACK),
        Line(s.PROMOTED, e.SETTLED, s.HEALTHY),
        Line(s.ROLLED_BACK, e.CHAMPION_KEPT, s.DEGRADED),
    )


TABLE = _table()
TRANSITIONS: dict[State, dict[Event, Line]] = {
    state: {line.event: line for line in TABLE if line.source is state} for state in State
}


class IllegalTransition(Exception):
    """Something was said to happen that cannot happen in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event} while {state}")
        self.state, self.event = state, event


def line_of(state: State, event: Event) -> Line:
    """What the table says of ``event`` in ``state``.

    Raises:
        IllegalTransition: it has no such line.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None


def after(state: State, event: Event) -> State:
    """The state that follows. Raises ``IllegalTransition``."""
    return line_of(state, event).target


def serving_after(serving: Serving, line: Line) -> Serving:
    return serving if line.serving is None else line.serving


def is_allowed(source: State, target: State) -> bool:
    """Whether any event leads from ``source`` to ``target``: what a recorder of transitions checks."""
    return any(line.target is target for line in TRANSITIONS[source].values())
