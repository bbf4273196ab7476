"""Since when, and how far: the start of the running CUSUM excursion of each stream, and its sums since then.

Page, "Continuous inspection schemes", Biometrika 41 (1954): C = max(0, C + log L). The last time at which C was zero is
the maximum likelihood estimate of the change for the alternative in L. It is an estimate and carries no guarantee. C is
held below ``HIGHEST``, so that a change that is over is forgotten in time for the next one to be dated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HIGHEST = 20.0  # about what a verdict takes


@dataclass(slots=True)
class ChangePoints:
    """``streams`` CUSUMs side by side, told of one block at a time."""

    streams: int
    began: NDArray[np.int64] = field(init=False, repr=False)  # number of the last row before the excursion
    blocks: NDArray[np.int64] = field(init=False, repr=False)  # of the excursion
    total: NDArray[np.int64] = field(init=False, repr=False)  # what these blocks summed up to
    _excursion: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.began, self.blocks, self.total = (np.zeros(self.streams, np.int64) for _ in range(3))
        self._excursion = np.zeros(self.streams)

    def update(self, log_factors: NDArray[np.float64], sums: NDArray[np.int64], last_row: int) -> None:
        """One block that ends with row ``last_row``: (streams,) its log-likelihood ratios and its sums."""
        np.minimum(self._excursion + log_factors, HIGHEST, out=self._excursion)
        self.blocks += 1
        self.total += sums
        over = self._excursion <= 0.0
        self._excursion[over] = 0.0
        self.began[over] = last_row
        self.blocks[over] = 0
        self.total[over] = 0

    def arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """What ``restore`` takes."""
        return {"began": self.began, "blocks": self.blocks, "total": self.total, "excursion": self._excursion}

    def restore(self, arrays: dict[str, NDArray[np.float64] | NDArray[np.int64]]) -> None:
        for name, array in self.arrays().items():
            array[:] = arrays[name]
