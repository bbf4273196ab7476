"""Whether a replica is asked. A state machine without a clock, a socket or a random number: the caller brings them.

    READY      calls pass
    EJECTED    nobody is asked until the back-off ends
    HALF_OPEN  exactly one probe or call is under way; it decides

Every legal move stands in TRANSITIONS, and from every state time alone leads on to a probe: an ejection ends, a probe
that never reports loses its place. Use from one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from inference.routing.settings import EjectionSettings

DOUBLINGS_COUNTED = 32  # beyond any sensible ratio of longest to shortest back-off


class State(StrEnum):
    READY = "ready"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    EJECT = "eject"
    COOLED_DOWN = "cooled_down"
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_FAILED = "probe_failed"
    PROBE_ABANDONED = "probe_abandoned"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.READY: {Event.EJECT: State.EJECTED},
    State.EJECTED: {Event.COOLED_DOWN: State.HALF_OPEN},
    State.HALF_OPEN: {
        Event.PROBE_SUCCEEDED: State.READY,
        Event.PROBE_FAILED: State.EJECTED,
        Event.PROBE_ABANDONED: State.EJECTED,
    },
}


@dataclass(frozen=True, slots=True)
class Transition:
    """``reason``: ``asleep``, ``stalled``, ``probe_failed``, ``cooled_down``, ``probe_succeeded``, ``probe_abandoned``
    or the reason of the backend error that was one too many."""

    replica: str
    before: State
    after: State
    reason: str
    at_s: float


class ReplicaHealth:
    """``jitter`` gives numbers in [0, 1). ``listener`` is told of every transition; it MUST NOT raise."""

    __slots__ = (
        "_ejections",
        "_failed_in_a_row",
        "_jitter",
        "_lease",
        "_lease_ends_s",
        "_listener",
        "_settings",
        "_until_s",
        "name",
        "reason",
        "since_s",
        "state",
    )

    def __init__(
        self,
        name: str,
        settings: EjectionSettings,
        listener: Callable[[Transition], None],
        jitter: Callable[[], float],
    ) -> None:
        self.name, self._settings, self._listener, self._jitter = name, settings, listener, jitter
        self.state, self.reason, self.since_s = State.READY, "", 0.0
        self._failed_in_a_row = self._ejections = self._lease = 0
        self._until_s = self._lease_ends_s = 0.0

    def succeed(self) -> None:
        self._failed_in_a_row = 0

    def fail(self, reason: str, now_s: float) -> None:
        """One call failed by the replica's fault. Late failures of a replica that is out already add nothing."""
        if self.state is not State.READY:
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.failures:
            self.eject(reason, now_s)

    def eject(self, reason: str, now_s: float) -> None:
        if self.state is not State.READY:
            return
        if now_s - self.since_s >= self._settings.forgive_s:
            self._ejections = 0
        self._apply(Event.EJECT, reason, now_s)

    def lease_probe(self, now_s: float) -> int:
        """Leave for the one probe of a replica that has cooled down, to be settled; 0 when there is none."""
        if self.state is State.EJECTED and now_s >= self._until_s:
            self._apply(Event.COOLED_DOWN, "cooled_down", now_s)
        elif self.state is not State.HALF_OPEN or now_s < self._lease_ends_s:
            return 0
        self._lease += 1
        self._lease_ends_s = now_s + self._settings.lease_s
        return self._lease

    def settle(self, lease: int, event: Event, now_s: float, reason: str = "") -> None:
        """What became of the probe. One that lost its place in the meantime says nothing any more."""
        if lease == self._lease and self.state is State.HALF_OPEN:
            self._apply(event, reason or event.value, now_s)

    def hasten(self, now_s: float) -> None:
        """Something was seen that makes a probe worth while at once."""
        if self.state is State.EJECTED:
            self._until_s = min(self._until_s, now_s)

    def retry_after_s(self, now_s: float) -> float | None:
        """Seconds until a probe may pass; None when nothing is in the way."""
        if self.state is State.READY:
            return None
        until_s = self._until_s if self.state is State.EJECTED else self._lease_ends_s
        return max(0.0, until_s - now_s)

    def _apply(self, event: Event, reason: str, now_s: float) -> None:
        before = self.state
        self.state = TRANSITIONS[before][event]
        self.since_s, self._failed_in_a_row = now_s, 0
        if event is not Event.COOLED_DOWN:
            self.reason = "" if self.state is State.READY else reason
        if event is Event.PROBE_ABANDONED:
            self._until_s = now_s  # it taught nothing: the next one may try at once
        elif self.state is State.EJECTED:
            self._until_s = now_s + self._back_off_s()
            self._ejections += 1
        self._listener(Transition(self.name, before, self.state, reason, now_s))

    def _back_off_s(self) -> float:
        doubled = self._settings.eject_s * 2.0 ** min(self._ejections, DOUBLINGS_COUNTED)
        spread = self._settings.jitter_ratio * (2 * self._jitter() - 1)
        return min(doubled, self._settings.eject_max_s) * (1 + spread)
