"""Do rows look like those that the model version was made for? A few vector operations for a whole call. Pure.

A row *violates* when a value lies outside its column's range, or is missing in a column that never misses. A missing
value elsewhere, and the share of it, are for the monitor to watch: one row cannot tell a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.reference import RowReference


@dataclass(frozen=True, slots=True, eq=False)
class RowGuard:
    """``low`` and ``high`` (k,) in the dtype of the rows, ``may_miss`` (k,) or None where no column may."""

    low: NDArray[Any]
    high: NDArray[Any]
    may_miss: NDArray[np.bool_] | None

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
        inside = (rows >= self.low) & (rows <= self.high)
        if inside.all():
            return 0
        return len(rows) - int(self._sound(rows, inside).sum())

    def broken(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) which of ``rows`` (n, k) violate."""
        return ~self._sound(rows, (rows >= self.low) & (rows <= self.high))

    def _sound(self, rows: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.may_miss is not None:
            inside |= np.isnan(rows) & self.may_miss
        return np.asarray(inside.all(axis=1), np.bool_)
