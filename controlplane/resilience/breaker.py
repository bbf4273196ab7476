"""A circuit breaker without a clock, a lock, a socket or a random number: all of them are brought by the caller.

    CLOSED     calls pass and are counted
    OPEN       calls are refused until the cool-down ends
    HALF_OPEN  a round of probes passes, one at a time; their results close or reopen
    HELD       refused for as long as somebody holds it: a drift verdict, an operator

Every legal move stands in TRANSITIONS, and why it was made is a word of Cause or the word of whoever holds:

    error_rate          the share of failed calls was too high
    first_token_late    so it was, and most of them had no first token in time
    stalled             so it was, and most of them stopped in the middle
    slow_rate           the share of failed and slow calls was too high
    connect_failures    so many calls in a row found no connection
    cooled_down         the open time is over
    probes_succeeded    enough probes of the round went well
    probes_failed       too many probes of the round did not

Only a bad call opens a breaker, and only probes close one. ``now_s`` is monotonic and never goes back. Use from one
thread: nothing here waits, so nothing comes between reading and writing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from controlplane.resilience.lessons import Verdict
from controlplane.resilience.settings import BreakerSettings
from controlplane.resilience.window import Counts, SlidingWindow

__all__ = [
    "TRANSITIONS",
    "Cause",
    "CircuitBreaker",
    "Event",
    "IllegalTransition",
    "Permit",
    "State",
    "Transition",
    "Verdict",
]

DOUBLINGS_COUNTED = 32  # beyond any sensible ratio of longest to shortest open time


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    HELD = "held"


class Event(StrEnum):
    TRIP = "trip"
    COOLED_DOWN = "cooled_down"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBES_FAILED = "probes_failed"
    HOLD = "hold"
    RELEASE = "release"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CLOSED: {Event.TRIP: State.OPEN, Event.HOLD: State.HELD},
    State.OPEN: {Event.COOLED_DOWN: State.HALF_OPEN, Event.HOLD: State.HELD},
    State.HALF_OPEN: {
        Event.PROBES_SUCCEEDED: State.CLOSED,
        Event.PROBES_FAILED: State.OPEN,
        Event.HOLD: State.HELD,
    },
    State.HELD: {Event.RELEASE: State.HALF_OPEN},
}


class Cause(StrEnum):
    """Why the breaker moved by itself. These words go into metrics, logs and refusals."""

    ERROR_RATE = "error_rate"
    FIRST_TOKEN_LATE = "first_token_late"  # noqa: S105  no password
    STALLED = "stalled"
    SLOW_RATE = "slow_rate"
    CONNECT_FAILURES = "connect_failures"
    COOLED_DOWN = "cooled_down"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBES_FAILED = "probes_failed"


CLOSED = State.CLOSED
SUCCEEDED, ABANDONED = Verdict.SUCCEEDED, Verdict.ABANDONED
FAILURES = (Verdict.FAILED, Verdict.UNREACHABLE, Verdict.SILENT, Verdict.STALLED)


class IllegalTransition(Exception):
    """The breaker was told of an event that its state cannot have: a bug here, never in a backend."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. MUST be reported exactly once. ``probe`` is 0 for an ordinary call."""

    generation: int
    probe: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """``reason`` is a ``Cause``, or the word of whoever holds or releases."""

    name: str
    before: State
    after: State
    reason: str
    at_s: float


def _nobody(_: Transition) -> None:
    """Nobody listens."""


class CircuitBreaker:
    """Decides for one backend and one version of a model.

    ``jitter`` gives numbers in [0, 1). ``listener`` is told of every transition; it MUST NOT raise.
    """

    __slots__ = (
        "_generation",
        "_holds",
        "_jitter",
        "_leases",
        "_listener",
        "_opened_in_a_row",
        "_ordinary",
        "_probe_failures",
        "_probe_number",
        "_probe_successes",
        "_settings",
        "_slow_s",
        "_unreachable_in_a_row",
        "_until_s",
        "_window",
        "name",
        "reason",
        "since_s",
        "slow_generation_s",
        "state",
    )

    def __init__(
        self,
        name: str,
        settings: BreakerSettings,
        *,
        jitter: Callable[[], float] = lambda: 0.5,
        listener: Callable[[Transition], None] = _nobody,
    ) -> None:
        self.name, self._settings, self._jitter, self._listener = name, settings, jitter, listener
        self.state, self.reason, self.since_s = State.CLOSED, "", 0.0
        self._window = SlidingWindow(settings.window_s, settings.window_max_s, settings.stretch_calls)
        self._until_s, self._slow_s = 0.0, settings.slow_call_s
        self.slow_generation_s = max(settings.slow_generation_s, settings.slow_call_s)
        self._opened_in_a_row = self._unreachable_in_a_row = 0
        self._generation = self._probe_number = self._probe_successes = self._probe_failures = 0
        self._leases: dict[int, float] = {}  # probe number → when its place is given to another
        self._holds: dict[str, None] = {}  # reasons, in order; a dict because sets have none
        self._ordinary = Permit(0)

    def admit(self, now_s: float) -> Permit | None:
        """Leave to call now; None when the call must not go out."""
        if self.state is CLOSED:
            return self._ordinary
        if self.state is State.OPEN and now_s >= self._until_s:
            self._apply(Event.COOLED_DOWN, Cause.COOLED_DOWN, now_s)
        return self._admit_probe(now_s) if self.state is State.HALF_OPEN else None

    def report(
        self, permit: Permit, verdict: Verdict, elapsed_s: float, now_s: float, slow_s: float | None = None
    ) -> None:
        """What became of a permitted call. An answer from before the last transition is too late to count.

        ``slow_s``: from when this call counts as slow, where that is another time than for most.
        """
        if permit.generation != self._generation:
            return
        is_slow = elapsed_s >= (self._slow_s if slow_s is None else slow_s)
        if permit.probe:
            self._leases.pop(permit.probe, None)
        elif verdict is SUCCEEDED and not is_slow:
            self._unreachable_in_a_row = 0
            self._window.count(now_s)
            return
        is_failure = verdict in FAILURES or (is_slow and verdict is Verdict.LATE)
        if not (is_failure or verdict is SUCCEEDED or (is_slow and verdict is ABANDONED)):
            return
        if permit.probe:
            self._judge_probe(now_s, succeeded=not is_failure and not is_slow)
            return
        bucket = self._window.count(now_s)
        bucket.failed += is_failure
        bucket.slow += not is_failure
        bucket.silent += verdict is Verdict.SILENT
        bucket.stalled += verdict is Verdict.STALLED
        self._unreachable_in_a_row = self._unreachable_in_a_row + 1 if verdict is Verdict.UNREACHABLE else 0
        self._judge_window(now_s)

    def hold(self, reason: str, now_s: float) -> bool:
        """Refuse every call until ``reason`` is released. Several may hold; False when this one already did."""
        if reason in self._holds:
            return False
        self._holds[reason] = None
        if self.state is not State.HELD:
            self._apply(Event.HOLD, reason, now_s)
        return True

    def release(self, reason: str, now_s: float) -> bool:
        """Let go of one hold; when it was the last, probes decide. False when nobody held with ``reason``."""
        if reason not in self._holds:
            return False
        del self._holds[reason]
        if not self._holds:
            self._apply(Event.RELEASE, reason, now_s)
        return True

    def hasten(self, now_s: float) -> None:
        """Something was seen that makes a probe worth while at once."""
        if self.state is State.OPEN:
            self._until_s = min(self._until_s, now_s)

    @property
    def holds(self) -> tuple[str, ...]:
        return tuple(self._holds)

    def counts(self, now_s: float) -> Counts:
        return self._window.counts(now_s)

    def retry_after_s(self, now_s: float) -> float | None:
        """Seconds until a call may pass; None when only somebody's hand can tell, or nothing is in the way."""
        if self.state is State.OPEN:
            return max(0.0, self._until_s - now_s)
        if self.state is State.HALF_OPEN and self._leases:
            return 1.0  # a probe is under way; its end is near, when is not known
        return None

    def _admit_probe(self, now_s: float) -> Permit | None:
        for probe in [probe for probe, ends_s in self._leases.items() if now_s >= ends_s]:
            del self._leases[probe]
        under_way = len(self._leases)
        judged = self._probe_successes + self._probe_failures
        if under_way >= self._settings.probes_at_once or judged + under_way >= self._settings.probes:
            return None
        self._probe_number += 1
        self._leases[self._probe_number] = now_s + self._settings.probe_lease_s
        return Permit(self._generation, self._probe_number)

    def _judge_probe(self, now_s: float, *, succeeded: bool) -> None:
        needed = math.ceil(self._settings.probe_success_ratio * self._settings.probes)
        if succeeded:
            self._probe_successes += 1
        else:
            self._probe_failures += 1
        if self._probe_failures > self._settings.probes - needed:
            self._apply(Event.PROBES_FAILED, Cause.PROBES_FAILED, now_s)
        elif self._probe_successes >= needed:
            self._apply(Event.PROBES_SUCCEEDED, Cause.PROBES_SUCCEEDED, now_s)

    def _judge_window(self, now_s: float) -> None:
        if self._unreachable_in_a_row >= self._settings.connect_failures:
            self._apply(Event.TRIP, Cause.CONNECT_FAILURES, now_s)
            return
        calls, failed, slow = self._window.counts(now_s)
        if calls < self._settings.min_calls:
            return
        if failed >= self._settings.error_rate * calls:
            self._apply(Event.TRIP, self._cause_of_failures(failed, now_s), now_s)
        elif failed + slow >= self._settings.slow_rate * calls:
            self._apply(Event.TRIP, Cause.SLOW_RATE, now_s)

    def _cause_of_failures(self, failed: int, now_s: float) -> Cause:
        silent, stalled = self._window.causes(now_s)
        if 2 * silent > failed:
            return Cause.FIRST_TOKEN_LATE
        return Cause.STALLED if 2 * stalled > failed else Cause.ERROR_RATE

    def _apply(self, event: Event, reason: str, now_s: float) -> None:
        before = self.state
        try:
            self.state = TRANSITIONS[before][event]
        except KeyError:
            raise IllegalTransition(f"{event} while {before}") from None
        self.reason, self.since_s = reason, now_s
        self._generation += 1
        self._ordinary = Permit(self._generation)
        self._leases.clear()
        self._probe_successes = self._probe_failures = self._unreachable_in_a_row = 0
        if self.state is State.OPEN:
            self._until_s = now_s + self._cool_down_s()
            self._opened_in_a_row += 1
        elif self.state is State.CLOSED:
            self._opened_in_a_row = 0
            self._window.clear()
        self._listener(Transition(self.name, before, self.state, reason, now_s))

    def _cool_down_s(self) -> float:
        doubled = self._settings.open_s * 2.0 ** min(self._opened_in_a_row, DOUBLINGS_COUNTED)
        spread = self._settings.jitter_ratio * (2 * self._jitter() - 1)
        return min(doubled, self._settings.open_max_s) * (1 + spread)
