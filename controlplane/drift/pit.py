"""The rank of a value among its column's reference values, as a whole number from 0 to 65,536.

The probability integral transform with mid-ranks for ties: u(x) = P(X < x) + P(X = x)/2 under the reference. It is 0.5
on average over the reference whatever the distribution, and bounded: the wildest value moves the mean of a block of B
rows by at most 1/B. |2u - 1| is the same for the spread. Both are whole numbers (``UNIT`` is 1), so that sums over
rows are exact and a stream gives the same evidence in whatever batches it comes.

A column is kept as at most ``CUTS`` of its reference values, evenly spaced in rank, and one rank for each of these
values and each gap between them. A coarser score is still one fixed monotone score, which is all the detectors need.
A missing value (NaN) scores what the reference scores on average: it speaks about neither location nor spread, and is
counted in a stream of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

UNIT = 1 << 16
CUTS = 512
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """``cuts`` (c,) ascending; ``ranks`` and ``spreads`` (2c + 2,): gap, cut, gap, …, gap, missing."""

    cuts: NDArray[np.float64]
    ranks: NDArray[np.int32]
    spreads: NDArray[np.int32]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Column:
        present = np.sort(values[~np.isnan(values)])
        distinct = np.unique(present)
        if len(distinct) > CUTS:
            places = np.linspace(0, len(present) - 1, CUTS).round().astype(np.int64)
            distinct = np.unique(present[places])
        below = np.searchsorted(present, distinct, "left")
        upto = np.searchsorted(present, distinct, "right")
        ranks = np.empty(2 * len(distinct) + 2)
        ranks[1:-1:2] = (below + upto) / 2
        ranks[0:-1:2] = (np.concatenate(([0], upto)) + np.concatenate((below, [len(present)]))) / 2
        ranks /= max(len(present), 1)
        ranks[-1] = 0.5
        spreads = np.abs(2 * ranks - 1)
        cells = _cells(present, distinct)
        spreads[-1] = spreads[cells].mean() if len(cells) else 0.5
        return cls(distinct, _whole(ranks), _whole(spreads))

    def cells(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """(n,) index of each value into ``ranks`` and ``spreads``."""
        return _cells(values, self.cuts)

    @property
    def reference_spread(self) -> float:
        return float(self.spreads[-1]) / UNIT

    @property
    def share_of_larger(self) -> float | None:
        """Where the column has two values: how often it has the larger."""
        if len(self.cuts) != 2:  # noqa: PLR2004 - two values
            return None
        return 2 * (1 - float(self.ranks[3]) / UNIT)

    def centre(self, mean_rank: float) -> float:
        """The median, in the column's own unit, of a distribution with this ``mean_rank`` (0 to 1).

        Exact for a shifted normal column: a shift of s standard deviations has mean rank Phi(s / sqrt 2).
        """
        larger = self.share_of_larger
        if larger is not None:
            return min(1.0, max(0.0, larger + 2 * mean_rank - 1))
        if not len(self.cuts):
            return float("nan")
        z = 2**0.5 * _NORMAL.inv_cdf(min(0.9999, max(0.0001, mean_rank)))
        at_cuts = self.ranks[1:-1:2] / UNIT
        return float(np.interp(_NORMAL.cdf(z), at_cuts, self.cuts))


def _cells(values: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.intp]:
    places = np.searchsorted(cuts, values, "left")
    cells = 2 * places
    inside = places < len(cuts)
    if len(cuts):
        cells += inside & (cuts[np.minimum(places, len(cuts) - 1)] == values)
    cells[np.isnan(values)] = 2 * len(cuts) + 1
    return cells


def _whole(shares: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(shares * UNIT).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Pit:
    """Scores of whole rows: the ranks of all k columns and then their spreads."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> Pit:
        return cls(tuple(Column.of(column) for column in rows.T))

    def scores(self, rows: NDArray[np.float64]) -> NDArray[np.int32]:
        """(2k, n) for ``rows`` (n, k)."""
        k = len(self.columns)
        scores = np.empty((2 * k, len(rows)), np.int32)
        for j, column in enumerate(self.columns):
            cells = column.cells(np.ascontiguousarray(rows[:, j]))
            np.take(column.ranks, cells, out=scores[j])
            np.take(column.spreads, cells, out=scores[k + j])
        return scores
