"""Every breaker of the gateway: one per target and version, made when first needed, bounded in number."""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from controlplane.resilience.breaker import CircuitBreaker, State, Transition
from controlplane.resilience.guarded import Exchange, ProbeLeases
from controlplane.resilience.settings import BreakerSettings
from inference.backend import Backend, BackendReply, BackendRequest

log = logging.getLogger(__name__)

MAX_BREAKERS = 1000
Listener = Callable[[Transition], None]
HoldListener = Callable[[str, str, bool], None]
"""(breaker's name, word of the holder, whether he holds now)"""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A breaker as the console and the metrics show it; counts are those of its window now."""

    name: str
    state: State
    reason: str
    since_s: float  # monotonic
    holds: tuple[str, ...]
    calls: int
    failed: int
    slow: int
    retry_after_s: float | None


def breaker_name(target: str, version: int | None = None, label: str | None = None) -> str:
    """``risk/2``, ``risk@stable``, or ``risk`` when the caller left the choice to the server."""
    if version is not None:
        return f"{target}/{version}"
    return target if label is None else f"{target}@{label}"


class Breakers:
    """``settings_for`` gives the settings of a target; a model that chats needs others than one that predicts.

    Callers invent names and versions, so the number is bounded: the closed breaker unused for longest goes first.
    """

    def __init__(
        self,
        settings_for: Callable[[str], BreakerSettings],
        now: Callable[[], float],
        *,
        jitter: Callable[[], float] = random.random,
        max_breakers: int = MAX_BREAKERS,
    ) -> None:
        self._settings_for, self._now, self._jitter, self._max = settings_for, now, jitter, max_breakers
        self._known: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._listeners: list[Listener] = []
        self._hold_listeners: list[HoldListener] = []
        self._lasting: set[str] = set()
        self.leases: ProbeLeases | None = None  # set before the first call where several gateways share backends

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of every transition. One that raises is logged and hurts neither call nor breaker."""
        self._listeners.append(listener)

    def listen_to_holds(self, listener: HoldListener) -> None:
        """Tell ``listener`` of every hold that was placed or let go. One that raises is logged."""
        self._hold_listeners.append(listener)

    def add(self, name: str, settings: BreakerSettings) -> CircuitBreaker:
        """A breaker that is there from the start, has settings of its own and is never forgotten.

        Holds that were placed before on its name stay.
        """
        before = self._known.get(name)
        breaker = self._known[name] = CircuitBreaker(name, settings, jitter=self._jitter, listener=self._announce)
        self._lasting.add(name)
        for reason in () if before is None else before.holds:
            breaker.hold(reason, self._now())
        return breaker

    def of(self, target: str, version: int | None = None, label: str | None = None) -> CircuitBreaker:
        name = breaker_name(target, version, label)
        breaker = self._known.get(name)
        if breaker is None:
            return self._made(name, target)
        self._known.move_to_end(name)
        return breaker

    def hold(self, name: str, reason: str) -> bool:
        """Refuse every call to ``name`` (see ``breaker_name``) until ``reason`` is released."""
        breaker = self._known.get(name) or self._made(name, target_in(name))
        if not breaker.hold(reason, self._now()):
            return False
        self._known.move_to_end(name)
        self._tell_of_hold(name, reason, is_held=True)
        return True

    def release(self, name: str, reason: str) -> bool:
        """Let go of a hold; the breaker of the last one goes half open, and probes decide."""
        breaker = self._known.get(name)
        if breaker is None or not breaker.release(reason, self._now()):
            return False
        self._tell_of_hold(name, reason, is_held=False)
        return True

    def hasten(self, name: str) -> None:
        """Probe ``name`` with the next call if it is open: somebody saw it work."""
        if breaker := self._known.get(name):
            breaker.hasten(self._now())

    def holds(self) -> list[tuple[str, str]]:
        """Name and word of every hold."""
        return [(name, reason) for name, breaker in self._known.items() for reason in breaker.holds]

    def is_held(self, name: str) -> bool:
        breaker = self._known.get(name)
        return breaker is not None and bool(breaker.holds)

    def snapshot(self) -> list[BreakerStatus]:
        now_s = self._now()
        return [status_of(breaker, now_s) for _, breaker in sorted(self._known.items())]

    def _made(self, name: str, target: str) -> CircuitBreaker:
        breaker = CircuitBreaker(name, self._settings_for(target), jitter=self._jitter, listener=self._announce)
        if len(self._known) >= self._max:
            self._evict()
        self._known[name] = breaker
        return breaker

    def _evict(self) -> None:
        """Forgetting an open breaker costs some failed calls, forgetting a hold would undo a verdict."""
        for forgettable in ({State.CLOSED}, {State.HALF_OPEN, State.OPEN}):
            for name, breaker in self._known.items():
                if breaker.state in forgettable and name not in self._lasting:
                    del self._known[name]
                    return

    def _announce(self, transition: Transition) -> None:
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                log.exception("a listener to breaker transitions failed")

    def _tell_of_hold(self, name: str, reason: str, *, is_held: bool) -> None:
        for listener in self._hold_listeners:
            try:
                listener(name, reason, is_held)
            except Exception:
                log.exception("a listener to holds failed")


@dataclass(frozen=True, slots=True)
class GuardedByVersion:
    """A backend that serves many models, each version behind its own breaker."""

    inner: Backend
    breakers: Breakers
    now: Callable[[], float]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        breaker = self.breakers.of(request.target, request.version, request.label)
        return Exchange(self.inner, breaker, self.now, self.breakers.leases, request)


def target_in(name: str) -> str:
    """The target of a breaker's name. Model names may contain slashes; a version is a number."""
    target, _, version = name.rpartition("/")
    return target if target and version.isdigit() else name.partition("@")[0]


def status_of(breaker: CircuitBreaker, now_s: float) -> BreakerStatus:
    calls, failed, slow = breaker.counts(now_s)
    return BreakerStatus(
        name=breaker.name,
        state=breaker.state,
        reason=breaker.reason,
        since_s=breaker.since_s,
        holds=breaker.holds,
        calls=calls,
        failed=failed,
        slow=slow,
        retry_after_s=breaker.retry_after_s(now_s),
    )
