"""At most so many calls in any window of so many seconds: a sliding window in bounded memory.

Calls closer together than a sixtieth of the window share one entry that leaves with its last call. So the limit is
never exceeded, a call may be refused at most that sixtieth too long, and an entry count does not grow with the limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from msgspec import Struct

SLICES = 60
SWEEP_INTERVAL_S = 1.0


class Rate(Struct, frozen=True):
    """``max`` calls in any ``per_s`` seconds; zero means never."""

    max: int
    per_s: float

    def __post_init__(self) -> None:
        if self.max < 0 or not 0 < self.per_s < float("inf"):
            raise ValueError("a rate needs max >= 0 and a finite per_s > 0")


@dataclass(slots=True)
class _Entry:
    first_s: float
    last_s: float
    calls: int = 1


@dataclass(slots=True)
class _Window:
    per_s: float
    entries: deque[_Entry] = field(default_factory=deque)
    calls: int = 0

    def forget_before(self, now_s: float) -> None:
        while self.entries and self.entries[0].last_s + self.per_s <= now_s:  # as wait_s reckons, to the last bit
            self.calls -= self.entries.popleft().calls

    def add(self, now_s: float) -> None:
        self.calls += 1
        newest = self.entries[-1] if self.entries else None
        if newest is not None and now_s - newest.first_s < self.per_s / SLICES:
            newest.last_s, newest.calls = max(now_s, newest.last_s), newest.calls + 1
        else:
            self.entries.append(_Entry(now_s, now_s))

    def wait_s(self, now_s: float) -> float:
        """Until the oldest entry leaves, and with it there is room."""
        return self.entries[0].last_s + self.per_s - now_s if self.entries else self.per_s


class RateLimit:
    """Counts by key: whatever tells one limit and one caller from another. Not for several threads."""

    def __init__(self, max_counters: int = 100_000) -> None:
        self._windows: dict[Hashable, _Window] = {}
        self._max_counters = max_counters
        self._swept_at_s = float("-inf")

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, key: Hashable, rate: Rate, now_s: float) -> float:
        """0.0 when the call is within ``rate`` (and counted); otherwise the seconds after which to try again.

        A refused call is not counted. ``now_s`` is monotonic.
        """
        window = self._windows.get(key) or self._new_window(key, rate, now_s)
        if window is None:
            return rate.per_s
        window.per_s = rate.per_s
        window.forget_before(now_s)
        if window.calls >= rate.max:
            return window.wait_s(now_s)
        window.add(now_s)
        return 0.0

    def _new_window(self, key: Hashable, rate: Rate, now_s: float) -> _Window | None:
        if len(self._windows) >= self._max_counters:
            self._sweep(now_s)
        if len(self._windows) >= self._max_counters:
            return None  # dropping somebody's counter would lift their limit
        window = self._windows[key] = _Window(rate.per_s)
        return window

    def _sweep(self, now_s: float) -> None:
        """Drop the counters that count nothing any more; not on every call, for it looks at all of them."""
        if now_s - self._swept_at_s < SWEEP_INTERVAL_S:
            return
        self._swept_at_s = now_s
        for window in self._windows.values():
            window.forget_before(now_s)
        self._windows = {key: window for key, window in self._windows.items() if window.entries}
