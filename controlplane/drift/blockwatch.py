"""Did any column move? Blocks of rows against everything that the reference showed, at one width of block.

A block's statistic is the sum of its rows' ranks, and of their distances from the middle (``pit.py``): bounded, so one
wild row in 50 means one fiftieth. A block *exceeds* when the sum lies outside the range of the reference's own blocks,
and lasting exceedance is evidence (``exceedance.py``). Dependence shorter than a block, and seasons that the reference
covers, are in that range.

The reference's blocks are *cross-fitted*: blocks of its first half in time are ranked by its second half, and the
other way round. Ranked by themselves they would lie closer together than blocks to come, and the range be too narrow.
Halves in time and not at random: what wanders within the reference must show.

The fit then replays: each half's blocks against the range of the other half alone, which being made of half as many
blocks allows twice the p0. Here all are ranked by the whole reference, so that rows in any order would be exchangeable
and an alarm speaks of time: seasons, a trend, dependence longer than a block. p0 is raised until the replay is silent.
A reference too short for the width, or one that disagrees with itself however high p0 is, leaves the scale unarmed.

Limits. A change smaller than the range of a reference block (0.25 standard deviations at 50 rows) is seen late or
never; dependence much longer than a block makes the range wide. Hence two widths, and the window of ``calibrated.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.changepoint import ChangePoints
from controlplane.drift.exceedance import Exceedances, exceedance_probability
from controlplane.drift.pit import UNIT, Pit
from controlplane.drift.verdict import Movement

Sums = NDArray[np.int64]
MARGIN = 0.15  # of the blocks' standard deviation, added to either side of the range
HIGHEST_P0 = 0.45  # above it an exceedance says next to nothing
RAISE = 1.25
NAMED = 5  # streams that a verdict names at most


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """The range of the reference's blocks, (statistics,) each, and how often a new block may leave it by chance."""

    width: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p0: float

    def exceeded(self, sums: Sums) -> NDArray[np.bool_]:
        """(..., 2 statistics): above the range, and then below it."""
        return np.concatenate((sums > self.high, sums < self.low), axis=-1)


def reference_blocks(rows: NDArray[np.float64], width: int) -> tuple[Sums, Sums]:
    """Block sums (blocks, statistics) of the two halves of the reference, each ranked by the other."""
    half = len(rows) // 2
    first, second = rows[:half], rows[half:]
    return block_sums(Pit.of(second), first, width), block_sums(Pit.of(first), second, width)


def block_sums(pit: Pit, rows: NDArray[np.float64], width: int) -> Sums:
    blocks = len(rows) // width
    scores = pit.scores(rows[: blocks * width])
    sums: Sums = scores.reshape(len(scores), blocks, width).sum(axis=2, dtype=np.int64).T
    return sums


def is_long_enough(rows: int, columns: int, width: int, risk: float) -> bool:
    """Whether a reference of so many rows can bound the exceedances of blocks of ``width`` rows at all."""
    blocks = 2 * (rows // 2 // width)
    return blocks > 1 and exceedance_probability(4 * columns, blocks, risk) <= HIGHEST_P0


def fit_range(rows: NDArray[np.float64], width: int, arl_blocks: float, risk: float) -> Range | None:
    """The range of the reference's blocks and its p0; None where no p0 makes the replay silent."""
    blocks = np.vstack(reference_blocks(rows, width))
    half = len(rows) // 2
    pit = Pit.of(rows)
    first, second = block_sums(pit, rows[:half], width), block_sums(pit, rows[half:], width)
    p0 = exceedance_probability(2 * blocks.shape[1], len(blocks), risk)
    while p0 <= HIGHEST_P0:
        if _is_silent(first, second, 2 * p0, arl_blocks) and _is_silent(second, first, 2 * p0, arl_blocks):
            return _range(blocks, width, p0)
        p0 *= RAISE
    return None


def _range(blocks: Sums, width: int, p0: float) -> Range:
    margin = MARGIN * blocks.std(axis=0)
    return Range(width, blocks.min(axis=0) - margin, blocks.max(axis=0) + margin, p0)


def _is_silent(known: Sums, replayed: Sums, p0: float, arl_blocks: float) -> bool:
    exceeded = _range(known, 0, p0).exceeded(replayed)
    detector = Exceedances(exceeded.shape[1], p0, arl_blocks)
    return not any(detector.update(block) for block in exceeded)


@dataclass(slots=True)
class BlockWatch:
    """Blocks of one width under watch: feed it each block's sums, ask it what moved when it alarms."""

    limits: Range
    arl_blocks: float
    exceedances: Exceedances = field(init=False)
    changes: ChangePoints = field(init=False)

    def __post_init__(self) -> None:
        streams = 2 * len(self.limits.low)
        self.exceedances = Exceedances(streams, self.limits.p0, self.arl_blocks)
        self.changes = ChangePoints(streams)

    def update(self, sums: Sums, last_row: int) -> bool:
        """Take one block in, (statistics,), that ends with row ``last_row``; whether this is an alarm."""
        exceeded = self.limits.exceeded(sums)
        miss, hit = self.exceedances.log_factors
        self.changes.update(np.where(exceeded, hit, miss), np.concatenate((sums, sums)), last_row)
        return self.exceedances.update(exceeded)

    def movements(self, names: Sequence[str], pit: Pit) -> tuple[Movement, ...]:
        """The streams that carry the evidence, strongest first."""
        parts = self.exceedances.by_stream()
        parts /= max(parts.sum(), 1e-300)
        strongest = np.argsort(-parts, kind="stable")[:NAMED].tolist()
        kept = [s for place, s in enumerate(strongest) if place == 0 or parts[s] >= 1 / (2 * NAMED)]
        return tuple(self._movement(s, float(parts[s]), names, pit) for s in kept)

    def _movement(self, stream: int, share: float, names: Sequence[str], pit: Pit) -> Movement:
        statistic = stream % len(self.limits.low)
        column = pit.columns[statistic % len(names)]
        is_location = statistic < len(names)
        blocks = int(self.changes.blocks[stream])
        usual = 0.5 if is_location else column.reference_spread
        mean = int(self.changes.total[stream]) / (blocks * self.limits.width * UNIT) if blocks else usual
        return Movement(
            stream=names[statistic % len(names)],
            aspect="location" if is_location else "spread",
            rises=stream < len(self.limits.low),
            before=column.centre(0.5) if is_location else usual,
            after=column.centre(mean) if is_location else mean,
            since_row=int(self.changes.began[stream]),
            share=share,
        )
