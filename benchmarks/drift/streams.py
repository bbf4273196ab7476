"""Synthetic rows whose truth is known. A stream goes on in time: its reference, what is quiet, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
SEASON_ROWS = 2_000  # a "day"
KINDS = ("iid", "ar(.5)", "ar(.9)", "season", "mixed")


@dataclass(slots=True)
class Stream:
    """``next(rows)`` gives (rows, columns) of unit variance, where that exists; kinds as in ``KINDS``."""

    kind: str
    columns: int
    seed: int
    random: np.random.Generator = field(init=False)
    row: int = 0
    _last: Rows = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, self.columns, KINDS.index(self.kind)])
        self._last = self.random.normal(size=self.columns)

    def next(self, rows: int) -> Rows:
        made = {"iid": self._iid, "season": self._season, "mixed": self._mixed}.get(self.kind, self._autoregressive)(
            rows
        )
        self.row += rows
        return made

    def _iid(self, rows: int) -> Rows:
        return self.random.normal(size=(rows, self.columns))

    def _autoregressive(self, rows: int) -> Rows:
        keeps = float(self.kind[3:-1])
        made = self._iid(rows) * np.sqrt(1 - keeps**2)
        for i in range(rows):
            made[i] += keeps * self._last
            self._last = made[i]
        return made

    def _season(self, rows: int) -> Rows:
        """A daily season of 0.3 standard deviations, in another phase for each column."""
        time = np.arange(self.row, self.row + rows)[:, None]
        wave = np.sin(2 * np.pi * time / SEASON_ROWS + np.arange(self.columns))
        return np.asarray(self._iid(rows) + 0.3 * np.sqrt(2) * wave)

    def _mixed(self, rows: int) -> Rows:
        """Normal, lognormal, 3 % ones, counts, a heavy tail (t with 2.5 degrees) and a constant, in turns."""
        random = self.random
        kinds: tuple[Callable[[], Rows], ...] = (
            lambda: random.normal(size=rows),
            lambda: random.lognormal(size=rows),
            lambda: (random.random(rows) < 0.03).astype(float),
            lambda: random.poisson(3, rows).astype(float),
            lambda: random.standard_t(2.5, rows),
            lambda: np.full(rows, 7.0),
        )
        return np.column_stack([kinds[j % len(kinds)]() for j in range(self.columns)])


def coins(seed: int, rate: float, rows: int) -> Rows:
    return (np.random.default_rng(seed).random(rows) < rate).astype(np.float64)
