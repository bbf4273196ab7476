"""What happened lately: counts in buckets of time. Pure; the caller brings the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

BUCKETS_PER_SPAN = 10


class Counts(NamedTuple):
    calls: int
    failed: int
    slow: int


@dataclass(slots=True)
class Bucket:
    number: int
    calls: int = 0
    failed: int = 0
    slow: int = 0


class SlidingWindow:
    """Looks back ``span_s``, further while it holds fewer than ``stretch_calls``, but never beyond ``longest_s``."""

    __slots__ = ("_bucket_s", "_buckets", "_longest", "_stretch_calls", "_troubled")

    def __init__(self, span_s: float, longest_s: float, stretch_calls: int) -> None:
        self._bucket_s = span_s / BUCKETS_PER_SPAN
        self._longest = max(BUCKETS_PER_SPAN, round(longest_s / self._bucket_s))
        self._stretch_calls = stretch_calls
        self._buckets: deque[Bucket] = deque()  # only those with calls in them, oldest first
        self._troubled = 0  # failed or slow calls in all buckets; while it is 0 nobody need count

    def record(self, now_s: float, *, failed: bool, slow: bool) -> None:
        number = int(now_s / self._bucket_s)
        if not self._buckets or self._buckets[-1].number < number:
            self._forget(number)
            self._buckets.append(Bucket(number))
        bucket = self._buckets[-1]
        bucket.calls += 1
        bucket.failed += failed
        bucket.slow += slow and not failed
        self._troubled += failed or slow

    @property
    def is_untroubled(self) -> bool:
        return self._troubled == 0

    def counts(self, now_s: float) -> Counts:
        number = int(now_s / self._bucket_s)
        calls = failed = slow = 0
        for bucket in reversed(self._buckets):
            age = number - bucket.number
            if age >= self._longest or (age >= BUCKETS_PER_SPAN and calls >= self._stretch_calls):
                break
            calls, failed, slow = calls + bucket.calls, failed + bucket.failed, slow + bucket.slow
        return Counts(calls, failed, slow)

    def clear(self) -> None:
        self._buckets.clear()
        self._troubled = 0

    def _forget(self, number: int) -> None:
        while self._buckets and number - self._buckets[0].number >= self._longest:
            gone = self._buckets.popleft()
            self._troubled -= gone.failed + gone.slow
