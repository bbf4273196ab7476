"""Token buckets: how much may be asked twice. Pure; the caller brings the time."""

from __future__ import annotations


class Budget:
    """Grows by ``ratio`` with each call and by ``per_s`` with time, up to ``burst``; starts full."""

    __slots__ = ("_burst", "_filled_s", "_per_s", "_ratio", "_tokens")

    def __init__(self, ratio: float, per_s: float, burst: float) -> None:
        self._ratio, self._per_s, self._burst = ratio, per_s, burst
        self._tokens, self._filled_s = burst, float("-inf")

    def note_call(self) -> None:
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def take(self, now_s: float) -> bool:
        """Spend one token, if there is one."""
        if self._per_s and now_s > self._filled_s:
            self._tokens = min(self._burst, self._tokens + self._per_s * (now_s - self._filled_s))
            self._filled_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        self._tokens = min(self._burst, self._tokens + 1.0)
