"""Whether a model's breaker lets calls through, told cheaply: only breakers that moved are looked at."""

from __future__ import annotations

from collections.abc import Callable

from controlplane.resilience.breaker import State, Transition
from controlplane.resilience.breakers import Breakers, breaker_name, target_in


class BreakerHealth:
    """``version_of`` gives the version that a call to a model means just now, 0 for none.

    Listens from its birth on; make it before holds are put back at start.
    """

    def __init__(self, breakers: Breakers, version_of: Callable[[str], int], monotonic: Callable[[], float]) -> None:
        self._breakers, self._version_of, self._monotonic = breakers, version_of, monotonic
        self._troubled: dict[str, set[str]] = {}  # model → breakers of it that are not closed
        breakers.listen(self._moved)

    def is_healthy(self, model: str) -> bool:
        """Also when its breaker is open and has cooled: somebody must be the probe."""
        troubled = self._troubled.get(model)
        if not troubled:
            return True
        version = self._version_of(model) or None
        if breaker_name(model, version) not in troubled:
            return True
        breaker = self._breakers.of(model, version)
        return breaker.state is not State.HELD and not breaker.retry_after_s(self._monotonic())

    def _moved(self, moved: Transition) -> None:
        troubled = self._troubled.setdefault(target_in(moved.name), set())
        if moved.after is State.CLOSED:
            troubled.discard(moved.name)
        else:
            troubled.add(moved.name)
        if not troubled:
            del self._troubled[target_in(moved.name)]
