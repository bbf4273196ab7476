"""The gateway's side of watching: a bounded ring of observations that the monitor reads at its own pace.

Appending stores a reference and nothing else: no decoding, no copying, no waiting. When the monitor falls behind, the
oldest observations are overwritten and the reader is told how many it missed. Made for one event loop: no locks.
Fails open: a lost observation makes a verdict later, never a call slower.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Item = TypeVar("Item")


class ObservationRing(Generic[Item]):
    """The newest ``capacity`` items, numbered from 1 in the order of their arrival."""

    __slots__ = ("_forgotten", "_newest", "_slots", "overwritten")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a ring holds at least one item")
        self._slots: list[Item | None] = [None] * capacity
        self._newest = self._forgotten = 0
        self.overwritten = 0  # items gone from the ring, read or not; ``after`` tells a reader what it missed

    @property
    def newest(self) -> int:
        """Sequence number of the last item; 0 before the first."""
        return self._newest

    @property
    def oldest(self) -> int:
        """Sequence number of the oldest item still held; 1 before the first."""
        return max(self._forgotten, self._newest - len(self._slots)) + 1

    def __len__(self) -> int:
        return self._newest - self.oldest + 1

    def append(self, item: Item) -> int:
        """Keep ``item`` and return its sequence number; O(1)."""
        position = self._newest % len(self._slots)
        self._newest += 1
        self.overwritten += self._slots[position] is not None
        self._slots[position] = item
        return self._newest

    def forget_oldest(self) -> Item | None:
        """Give the oldest item's memory back before its turn; None when there is none."""
        if not len(self):
            return None
        self._forgotten = self.oldest
        position = (self._forgotten - 1) % len(self._slots)
        item, self._slots[position] = self._slots[position], None
        self.overwritten += 1
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
