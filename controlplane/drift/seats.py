"""Nobody speaks for everybody: of one principal at most a few rows count in a block. Pure.

A block closes when it is full, or when so many rows were offered that it will not fill: where few principals call, they
wait for the next block. Rows without a seat are counted as skipped; what is done with them besides is the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OVER_SHARE = "over_share"


@dataclass(slots=True)
class Seats:
    """``per_principal`` of the ``block`` rows that count in a block, of at most ``offered`` rows that come."""

    per_principal: int
    block: int
    offered: int
    _taken: Counter[str] = field(default_factory=Counter)
    _seated: int = 0
    _came: int = 0

    def take(self, principal: str, rows: int) -> list[int]:
        """Which of ``rows`` rows of one call count, by their place in it."""
        found: list[int] = []
        for row in range(rows):
            if self._seated >= self.block or self._came >= self.offered:
                self._taken.clear()
                self._seated = self._came = 0
            self._came += 1
            if self._taken[principal] < self.per_principal:
                self._taken[principal] += 1
                self._seated += 1
                found.append(row)
        return found

    def snapshot(self) -> dict[str, Any]:
        return {"taken": dict(self._taken), "seated": self._seated, "came": self._came}

    def resume(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where ``snapshot`` was taken."""
        self._taken = Counter(snapshot["taken"])
        self._seated, self._came = snapshot["seated"], snapshot["came"]
