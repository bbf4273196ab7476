"""How busy a replica says it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SATURATED = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """One reading of a server's own metrics. ``worked`` only grows while the engine works (tokens so far)."""

    waiting: int = 0
    running: int = 0
    kv_ratio: float = 0.0  # of the KV cache in use, 0 to 1
    is_asleep: bool = False
    worked: float | None = None
    rss_bytes: int | None = None  # of the server's front process

    def score(self, waiting_threshold: int, kv_threshold: float) -> float:
        """``SATURATED`` or more: further calls would queue or push others out of the cache."""
        return max(self.waiting / waiting_threshold, self.kv_ratio / kv_threshold)
