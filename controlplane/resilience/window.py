"""What happened lately: counts in buckets of time. Pure; the caller brings the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BUCKETS_PER_SPAN = 10


class Counts(NamedTuple):
    calls: int
    failed: int
    slow: int


@dataclass(slots=True)
class Bucket:
    """``failed`` counts ``silent`` (no first token in time) and ``stalled`` calls too; ``slow`` only good ones."""

    number: int
    calls: int = 0
    failed: int = 0
    slow: int = 0
    silent: int = 0
    stalled: int = 0


NO_BUCKET = Bucket(-1)


class SlidingWindow:
    """Looks back ``span_s``, further while it holds fewer than ``stretch_calls``, but never beyond ``longest_s``."""

    __slots__ = ("_bucket_s", "_buckets", "_longest", "_newest", "_stretch_calls")

    def __init__(self, span_s: float, longest_s: float, stretch_calls: int) -> None:
        self._bucket_s = span_s / BUCKETS_PER_SPAN
        self._longest = max(BUCKETS_PER_SPAN, round(longest_s / self._bucket_s))
        self._stretch_calls = stretch_calls
        self._buckets: deque[Bucket] = deque()  # only those with calls in them, oldest first
        self._newest = NO_BUCKET

    def count(self, now_s: float) -> Bucket:
        """One call more; the bucket it fell into, where whoever knows better notes that it went badly."""
        number = int(now_s / self._bucket_s)
        bucket = self._newest
        if bucket.number < number:
            bucket = self._open(number)
        bucket.calls += 1
        return bucket

    def counts(self, now_s: float) -> Counts:
        calls = failed = slow = 0
        for bucket in self._within(now_s):
            calls, failed, slow = calls + bucket.calls, failed + bucket.failed, slow + bucket.slow
        return Counts(calls, failed, slow)

    def causes(self, now_s: float) -> tuple[int, int]:
        """How many of the failed calls were silent, and how many stalled."""
        buckets = list(self._within(now_s))
        return sum(bucket.silent for bucket in buckets), sum(bucket.stalled for bucket in buckets)

    def clear(self) -> None:
        self._buckets.clear()
        self._newest = NO_BUCKET

    def _within(self, now_s: float) -> Iterator[Bucket]:
        number, calls = int(now_s / self._bucket_s), 0
        for bucket in reversed(self._buckets):
            age = number - bucket.number
            if age >= self._longest or (age >= BUCKETS_PER_SPAN and calls >= self._stretch_calls):
                return
            calls += bucket.calls
            yield bucket

    def _open(self, number: int) -> Bucket:
        while self._buckets and number - self._buckets[0].number >= self._longest:
            self._buckets.popleft()
        self._newest = Bucket(number)
        self._buckets.append(self._newest)
        return self._newest
