"""How many calls a server takes at once, learnt from how long they take. Pure: time comes in as an argument.

Calls are judged a window at a time by the median of their latency, so that one slow call says nothing. The baseline is
the lowest median seen; it follows a lasting change slowly, because what lasts is no congestion but how the server is
now. Above ``tolerance_ratio`` times the baseline, or when the server itself complains, the limit shrinks in proportion;
below it grows by its square root, and only while it is in use.
"""

from __future__ import annotations

from math import isqrt

from controlplane.admission.settings import AdmissionSettings

BASELINE_DRIFT = 0.002  # of the gap, a window: half of it in about 350 windows
SHRINK_MOST = 0.5
SAMPLES_KEPT = 500  # of one window; its median is sharp enough with them
IN_USE = 0.5  # share of the limit that must have been taken for it to grow


class ConcurrencyLimit:
    __slots__ = ("_complaints", "_peak", "_samples", "_settings", "_window_ends_s", "baseline_s", "calls")

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.calls = settings.limit_calls
        self.baseline_s = 0.0  # 0.0 while nothing is known
        self._samples: list[float] = []
        self._window_ends_s = float("-inf")
        self._peak = self._complaints = 0

    def saw(self, latency_s: float, running: int, now_s: float) -> None:
        """An answer took ``latency_s`` to its first byte while ``running`` calls were under way."""
        self._peak = max(self._peak, running)
        if len(self._samples) < SAMPLES_KEPT:
            self._samples.append(latency_s)
        if now_s >= self._window_ends_s and len(self._samples) >= self._settings.window_calls:
            self._judge(now_s)

    def complained(self, now_s: float) -> None:
        """The server said that it has too much, or did not answer in time."""
        self._complaints += 1
        if now_s >= self._window_ends_s:
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        median_s = sorted(self._samples)[len(self._samples) // 2] if self._samples else 0.0
        self._learn(median_s)
        if self._settings.adaptive:
            self.calls = self._next(median_s)
        self._samples.clear()
        self._peak = self._complaints = 0
        self._window_ends_s = now_s + self._settings.window_s

    def _learn(self, median_s: float) -> None:
        if not median_s:
            return
        if not self.baseline_s or median_s < self.baseline_s:
            self.baseline_s = median_s
        else:
            self.baseline_s += (median_s - self.baseline_s) * BASELINE_DRIFT

    def _next(self, median_s: float) -> int:
        allowed_s = self.baseline_s * self._settings.tolerance_ratio
        if self._complaints or median_s > allowed_s:
            ratio = max(SHRINK_MOST, allowed_s / median_s if median_s else SHRINK_MOST)
            shrunk = int(self.calls * min(ratio, 1 - 1 / 16))
            return max(self._settings.min_limit_calls, shrunk)
        if self._peak < self.calls * IN_USE:
            return self.calls
        return min(self._settings.max_limit_calls, self.calls + max(1, isqrt(self.calls)))
