"""Waits that end in time, with one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Wait(Protocol):
    def set_exception(self, error: BaseException, /) -> None: ...


class Deadlines:
    """A timer for each wait costs 4 us, and hardly one of them ever rings.

    This one stands at the earliest instant that it was told of. It stays there when that wait has ended before; then it
    rings for nobody and goes on to the earliest that is left.
    """

    __slots__ = ("_loop", "_rings_at_s", "_timer", "_waits")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits: dict[Wait, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at_s = float("inf")

    def add(self, wait: Wait, at_s: float) -> None:
        """``wait`` fails with ``TimeoutError`` at ``at_s`` of the loop's clock, unless it is discarded before."""
        self._waits[wait] = at_s
        if at_s < self._rings_at_s:
            self._set(at_s)

    def discard(self, wait: Wait) -> None:
        self._waits.pop(wait, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, at_s: float) -> None:
        self.close()
        self._rings_at_s, self._timer = at_s, self._loop.call_at(at_s, self._ring)

    def _ring(self) -> None:
        now_s = max(self._rings_at_s, self._loop.time())  # a timer may ring a little early
        for wait in [wait for wait, at_s in self._waits.items() if at_s <= now_s]:
            del self._waits[wait]
            wait.set_exception(TimeoutError())
        self._rings_at_s, self._timer = float("inf"), None
        if self._waits:
            self._set(min(self._waits.values()))
