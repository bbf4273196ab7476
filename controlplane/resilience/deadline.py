"""One deadline for a call, however many rungs try to answer it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant on the monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float, now_s: float) -> Deadline:
        return cls(now_s + timeout_s)

    def has_passed(self, now_s: float) -> bool:
        return now_s >= self.at_s

    def remaining_s(self, now_s: float, *, reserve_ratio: float = 0.0) -> float:
        """Seconds left, without the share that is kept for whoever comes next."""
        return max(0.0, self.at_s - now_s) * (1 - reserve_ratio)
