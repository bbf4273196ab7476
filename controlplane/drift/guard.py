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
FALSE = b"\0"


class Tile(NamedTuple):
    """The bounds repeated for so many rows, and room for what comes of comparing with them: all of it flat.

    Comparing two flat arrays costs half of what it costs to stretch the bounds over the rows each time, and to look for
    a zero byte a fourth of asking whether all are true (3.2 us against 4.6 for a row of thirty).
    """

    low: NDArray[Any]
    high: NDArray[Any]
    inside: NDArray[np.bool_]
    below: NDArray[np.bool_]


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
        """How many of ``rows`` (n, k) violate. Infinite values do, missing ones (NaN) where they may not be."""
        tile = self._tiles.get(len(rows)) or self._tile(len(rows))
        flat = rows.reshape(-1)
        np.greater_equal(flat, tile.low, tile.inside)
        np.less_equal(flat, tile.high, tile.below)
        np.logical_and(tile.inside, tile.below, tile.inside)
        if FALSE not in tile.inside.tobytes():
            return 0
        return len(rows) - int(self._sound(rows, tile.inside.reshape(rows.shape)).sum())

    def broken(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) which of ``rows`` (n, k) violate."""
        return ~self._sound(rows, (rows >= self.low) & (rows <= self.high))

    def _sound(self, rows: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.may_miss is not None:
            inside |= np.isnan(rows) & self.may_miss
        return np.asarray(inside.all(axis=1), np.bool_)

    def _tile(self, rows: int) -> Tile:
        values = rows * len(self.low)
        tile = Tile(np.tile(self.low, rows), np.tile(self.high, rows), np.empty(values, bool), np.empty(values, bool))
        if values <= TILED_VALUES:
            if len(self._tiles) >= TILES:
                self._tiles.clear()
            self._tiles[rows] = tile
        return tile
