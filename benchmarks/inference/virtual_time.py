"""An event loop whose clock leaps to the next timer instead of waiting for it: hours of asyncio in seconds, the same
each time.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
START_S = 1000.0
LONGEST_S = 24 * 3600.0


class LeapingSelector(selectors.SelectSelector):
    leap: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody is left who could wake them")
        self.leap(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now_s = START_S
        selector = LeapingSelector()
        selector.leap = self._leap
        super().__init__(selector)

    def time(self) -> float:
        return self._now_s

    def _leap(self, span_s: float) -> None:
        self._now_s += span_s
        if self._now_s > START_S + LONGEST_S:
            raise RuntimeError("a day has passed; something waits for ever while something else goes on")


def run(scenario: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario)


def in_virtual_time(scenario: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A test that is a coroutine, as a plain function that runs it on such a loop."""

    @functools.wraps(scenario)
    def ran(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(scenario(*args, **kwargs))

    return ran
