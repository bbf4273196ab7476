"""The gateway's side of watching: a bounded ring of observations that the monitor reads at its own pace.

Appending stores a reference and nothing else: no decoding, no copying, no waiting. When the monitor falls behind, the
oldest observations are overwritten and the reader is told how many it missed. Made for one event loop: no locks.
Fails open: a lost observation makes a verdict later, never a call slower.
"""

from __future__ import annotations

import sys
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ObservationRing(Generic[Item]):
    """The newest ``capacity`` items of ``capacity_bytes`` in all, numbered from 1 in the order of their arrival."""

    __slots__ = ("_capacity", "_capacity_bytes", "_newest", "_oldest", "_sizes", "_slots", "held_bytes")

    def __init__(self, capacity: int, capacity_bytes: int = sys.maxsize) -> None:
        if capacity < 1:
            raise ValueError("a ring holds at least one item")
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._slots: list[Item | None] = [None] * capacity
        self._sizes = [0] * capacity
        self._newest, self._oldest, self.held_bytes = 0, 1, 0

    @property
    def newest(self) -> int:
        """Sequence number of the last item; 0 before the first."""
        return self._newest

    @property
    def oldest(self) -> int:
        """Sequence number of the oldest item still held; 1 before the first."""
        return self._oldest

    @property
    def overwritten(self) -> int:
        """Items gone from the ring, read or not; ``after`` tells a reader what it missed."""
        return self._oldest - 1

    def __len__(self) -> int:
        return self._newest - self._oldest + 1

    def append(self, item: Item, size: int = 0) -> None:
        """Keep ``item`` of ``size`` bytes in place of the oldest ones that leave it no room; O(1) for each."""
        newest = self._newest
        place = newest % self._capacity
        self.held_bytes += size - self._sizes[place]
        self._slots[place], self._sizes[place] = item, size
        self._newest = newest + 1
        if newest + 1 - self._oldest == self._capacity:
            self._oldest += 1
        while self.held_bytes > self._capacity_bytes:
            self.forget_oldest()

    def forget_oldest(self) -> Item | None:
        """Give the oldest item's memory back before its turn; None when there is none."""
        if not len(self):
            return None
        place = (self._oldest - 1) % self._capacity
        item, self._slots[place] = self._slots[place], None
        self.held_bytes -= self._sizes[place]
        self._sizes[place] = 0
        self._oldest += 1
        return item

    def after(self, seq: int, limit: int) -> tuple[list[tuple[int, Item]], int]:
        """At most ``limit`` numbered items that follow ``seq``, oldest first, and how many before them are lost.

        A ``seq`` from the future belongs to an earlier life of the gateway: the reader starts again with the oldest.
        """
        wanted = seq + 1 if 0 <= seq <= self._newest else 1
        first = max(wanted, self.oldest)
        last = min(self._newest, first + max(0, limit) - 1)
        found: list[tuple[int, Item]] = []
        for number in range(first, last + 1):
            item = self._slots[(number - 1) % len(self._slots)]
            if item is not None:
                found.append((number, item))
        return found, first - wanted
