"""Do rows look like those that the model version was made for? A few vector operations for a whole call. Pure.

A row *violates* when a value lies outside its column's range, or is missing in a column that never misses. A missing
value elsewhere, and the share of it, are for the monitor to watch: one row cannot tell a share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.reference import RowReference

TILES, TILED_VALUES = 64, 4096


class Tile(NamedTuple):
    """The bounds repeated for so many rows, and room for the rows as they would be within them.

    A row that its bounds do not change is sound, and so is a whole call of which nothing changes: two operations on
    arrays of one shape and a look at the bytes. Asking each value on which side of each bound it is takes four.
    ``low_if_there`` is NaN in columns that may miss: there a missing value stays, elsewhere it becomes its bound.
    """

    low_if_there: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    held: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class RowGuard:
    """``low`` and ``high`` (k,) in the dtype of the rows, ``may_miss`` (k,) or None where no column may.

    For one thread.
    """

    low: NDArray[Any]
    high: NDArray[Any]
    may_miss: NDArray[np.bool_] | None
    _tiles: dict[int, Tile] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: RowReference, dtype: np.dtype[Any]) -> RowGuard:
        """Bounds are rounded outwards: a value that the reference knows as a float64 is not refused as a float32."""
        lows = [-np.inf if column.low is None else column.low for column in reference.columns]
        highs = [np.inf if column.high is None else column.high for column in reference.columns]
        may_miss = np.array([column.may_miss for column in reference.columns])
        low, high = np.array(lows), np.array(highs)
        if dtype.kind == "f" and dtype.itemsize < low.dtype.itemsize:
            with np.errstate(over="ignore"):
                low = np.nextafter(low.astype(dtype), np.array(-np.inf, dtype))
                high = np.nextafter(high.astype(dtype), np.array(np.inf, dtype))
        return cls(low, high, may_miss if may_miss.any() else None)

    def violating(self, rows: NDArray[Any]) -> int:
        """How many of ``rows`` (n, k) violate. Infinite values do, missing ones (NaN) where they may not be.

        Where bytes differ, all is asked again: -0.0 may have become 0.0.
        """
        if rows.dtype is self.low.dtype:
            low_if_there, low, high, held = self._tiles.get(len(rows)) or self._tile(len(rows))
            np.fmax(rows, low_if_there, held)
            if self.may_miss is not None:
                np.maximum(held, low, out=held)
            np.minimum(held, high, out=held)
            if held.tobytes() == rows.tobytes():
                return 0
        return int(self.broken(rows).sum())

    def broken(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) which of ``rows`` (n, k) violate."""
        return ~self._sound(rows, (rows >= self.low) & (rows <= self.high))

    def _sound(self, rows: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.may_miss is not None:
            inside |= np.isnan(rows) & self.may_miss
        return np.asarray(inside.all(axis=1), np.bool_)

    def _tile(self, rows: int) -> Tile:
        there = (
            self.low if self.may_miss is None else np.where(self.may_miss, np.array(np.nan, self.low.dtype), self.low)
        )
        low_if_there, low, high = (np.tile(each, (rows, 1)) for each in (there, self.low, self.high))
        tile = Tile(low_if_there, low, high, np.empty_like(low))
        if low.size <= TILED_VALUES:
            if len(self._tiles) >= TILES:
                self._tiles.clear()
            self._tiles[rows] = tile
        return tile
