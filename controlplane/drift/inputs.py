"""A model's columns under watch: blocks of 50 and of 200 rows, and each column's missing values.

Rows are ranked once, summed into blocks of 50, and four of these sums are a block of 200. All sums are of whole
numbers, so the evidence after a row is the same to the last bit however the rows were cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.bernoulli import BlockCounts, missing_bands
from controlplane.drift.blockwatch import BlockWatch, Range, fit_range, is_long_enough
from controlplane.drift.changepoint import ChangePoints
from controlplane.drift.pit import Column, Pit
from controlplane.drift.verdict import Movement, Verdict

BLOCK = 50
BLOCKS_PER_LONG = 4
SCALES = {"inputs_50": BLOCK, "inputs_200": BLOCK * BLOCKS_PER_LONG}
MISSING = "missing"
SLICE = 4_096  # rows ranked at once: fits into the processor's caches
DATING = 2  # the alternative of RARE_MIXTURE that dates the change of a missing share
NAMED = 5
SHORT_REFERENCE, UNSTEADY_REFERENCE = "reference_too_short", "reference_disagrees_with_itself"


@dataclass(slots=True)
class MissingWatch:
    """The share of missing values of every column, told by block."""

    counts: BlockCounts
    usual: NDArray[np.float64]  # (k,) shares in the reference
    changes: ChangePoints = field(init=False)

    def __post_init__(self) -> None:
        self.changes = ChangePoints(len(self.usual))

    def update(self, absent: NDArray[np.int64], last_row: int) -> bool:
        factors = self.counts.log_factors(absent)
        self.changes.update(factors[DATING], absent, last_row)
        return self.counts.update(factors)

    def movements(self, names: Sequence[str]) -> tuple[Movement, ...]:
        parts = self.counts.by_stream()
        parts /= max(parts.sum(), 1e-300)
        strongest = np.argsort(-parts, kind="stable")[:NAMED].tolist()
        kept = [j for place, j in enumerate(strongest) if place == 0 or parts[j] >= 1 / (2 * NAMED)]
        return tuple(self._movement(j, float(parts[j]), names) for j in kept)

    def _movement(self, j: int, share: float, names: Sequence[str]) -> Movement:
        rows = int(self.changes.blocks[j]) * self.counts.width
        return Movement(
            stream=names[j],
            aspect="missing",
            rises=True,
            before=float(self.usual[j]),
            after=int(self.changes.total[j]) / rows if rows else float(self.usual[j]),
            since_row=int(self.changes.began[j]),
            share=share,
        )


@dataclass(slots=True)
class InputWatch:
    """All columns of one model version. ``scales`` holds those widths that the reference could arm."""

    names: tuple[str, ...]
    pit: Pit
    scales: dict[str, BlockWatch]
    missing: MissingWatch
    crossings: dict[str, int] = field(default_factory=dict)
    filled: NDArray[np.int64] = field(init=False, repr=False)  # rows in the block of 50, blocks in that of 200
    sums: NDArray[np.int64] = field(init=False, repr=False)  # (2k + k,): statistics and missing values of the block
    long_sums: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        k = len(self.names)
        self.filled = np.zeros(2, np.int64)
        self.sums, self.long_sums = np.zeros(3 * k, np.int64), np.zeros(2 * k, np.int64)

    @classmethod
    def fit(
        cls, names: Sequence[str], rows: NDArray[np.float64], arl_rows: Callable[[str], float], risk: float
    ) -> InputWatch:
        """From reference rows (n, k) in the order of time; ``arl_rows`` says what each detector is allowed."""
        scales = {}
        for name, width in SCALES.items():
            arl_blocks = arl_rows(name) / width
            limits = _armed(rows, width, arl_blocks, risk)
            if limits is not None:
                scales[name] = BlockWatch(limits, arl_blocks)
        return cls(tuple(names), Pit.of(rows), scales, _missing_watch(rows, arl_rows(MISSING)))

    def unarmed(self, reference_rows: int, risk: float) -> dict[str, str]:
        """The scales that the reference could not arm, each with a stable word for why."""
        columns = len(self.names)
        return {
            name: UNSTEADY_REFERENCE if is_long_enough(reference_rows, columns, width, risk) else SHORT_REFERENCE
            for name, width in SCALES.items()
            if name not in self.scales
        }

    def feed(self, rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Verdict]:
        """Rows (n, k) called ``numbers`` (n,); the verdicts that fall on them."""
        verdicts: list[Verdict] = []
        for start in range(0, len(rows), SLICE):
            verdicts += self._feed(rows[start : start + SLICE], numbers[start : start + SLICE])
        return verdicts

    def _feed(self, rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Verdict]:
        values = np.concatenate((self.pit.scores(rows), np.isnan(rows).T.astype(np.int32)))
        starts = np.arange(BLOCK - int(self.filled[0]), len(rows), BLOCK)
        sums = np.add.reduceat(values, np.concatenate(([0], starts)), axis=1, dtype=np.int64).T
        sums[0] += self.sums
        verdicts: list[Verdict] = []
        ends = [*starts.tolist(), len(rows)]
        whole = (int(self.filled[0]) + len(rows)) // BLOCK
        for block in range(whole):
            verdicts += self._close(sums[block], int(numbers[ends[block] - 1]))
        self.filled[0] = (int(self.filled[0]) + len(rows)) % BLOCK
        self.sums = sums[whole].copy() if whole < len(sums) else np.zeros_like(self.sums)
        return verdicts

    def _close(self, sums: NDArray[np.int64], last_row: int) -> list[Verdict]:
        statistics, absent = sums[: len(self.long_sums)], sums[len(self.long_sums) :]
        alarms = []
        if (short := self.scales.get("inputs_50")) is not None and short.update(statistics, last_row):
            alarms.append(self._scale_verdict("inputs_50", short, last_row))
        self.long_sums += statistics
        self.filled[1] += 1
        if self.filled[1] == BLOCKS_PER_LONG:
            if (long := self.scales.get("inputs_200")) is not None and long.update(self.long_sums, last_row):
                alarms.append(self._scale_verdict("inputs_200", long, last_row))
            self.long_sums[:], self.filled[1] = 0, 0
        if self.missing.update(absent, last_row):
            alarms.append(self._missing_verdict(last_row))
        return alarms

    def _scale_verdict(self, detector: str, watch: BlockWatch, row: int) -> Verdict:
        evidence, moved = watch.exceedances.mixture, watch.movements(self.names, self.pit)
        watch.exceedances.start_anew()
        return self._verdict(detector, moved, row, evidence, watch.arl_blocks * watch.limits.width)

    def _missing_verdict(self, row: int) -> Verdict:
        counts = self.missing.counts
        evidence, moved = counts.mixture, self.missing.movements(self.names)
        counts.start_anew()
        return self._verdict(MISSING, moved, row, evidence, counts.arl_blocks * counts.width)

    def _verdict(
        self, detector: str, moved: tuple[Movement, ...], row: int, evidence: float, arl_rows: float
    ) -> Verdict:
        self.crossings[detector] = self.crossings.get(detector, 0) + 1
        return Verdict(
            detector=detector,
            movements=moved,
            row=row,
            evidence=evidence,
            arl_rows=arl_rows,
            crossing=self.crossings[detector],
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays that change from row to row, each the very one: what ``restore`` fills."""
        found: dict[str, NDArray[Any]] = {"filled": self.filled, "sums": self.sums, "long_sums": self.long_sums}
        for name, watch in self.scales.items():
            found[f"{name}/evidence"] = watch.exceedances.evidence
            found |= {f"{name}/{part}": array for part, array in watch.changes.arrays().items()}
        found[f"{MISSING}/evidence"] = self.missing.counts.evidence
        return found | {f"{MISSING}/{part}": array for part, array in self.missing.changes.arrays().items()}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Raises ``KeyError`` or ``ValueError`` where ``arrays`` are another watch's."""
        for name, array in self.state().items():
            if arrays[name].shape != array.shape:
                raise ValueError(f"{name} has another shape")
            array[:] = arrays[name]

    def fitted(self) -> dict[str, NDArray[Any]]:
        """The arrays that never change; ``of_fitted`` makes an equal watch from them."""
        arrays: dict[str, NDArray[Any]] = {
            "cut_counts": np.array([len(column.cuts) for column in self.pit.columns]),
            "cuts": np.concatenate([column.cuts for column in self.pit.columns]),
            "ranks": np.concatenate([column.ranks for column in self.pit.columns]),
            "spreads": np.concatenate([column.spreads for column in self.pit.columns]),
            "missing_bands": self.missing.counts.bands,
            "missing_usual": self.missing.usual,
            "missing_arl": np.array([self.missing.counts.arl_blocks]),
        }
        for name, watch in self.scales.items():
            arrays[f"{name}/range"] = np.stack((watch.limits.low, watch.limits.high))
            arrays[f"{name}/p0"] = np.array([watch.limits.p0, watch.arl_blocks])
        return arrays

    @classmethod
    def of_fitted(cls, names: Sequence[str], arrays: dict[str, NDArray[Any]]) -> InputWatch:
        scales = {}
        for name, width in SCALES.items():
            if f"{name}/range" in arrays:
                (low, high), (p0, arl_blocks) = arrays[f"{name}/range"], arrays[f"{name}/p0"].tolist()
                scales[name] = BlockWatch(Range(width, low, high, p0), arl_blocks)
        counts = BlockCounts(arrays["missing_bands"], BLOCK, float(arrays["missing_arl"][0]))
        return cls(tuple(names), _pit_of(arrays), scales, MissingWatch(counts, arrays["missing_usual"]))


def _armed(rows: NDArray[np.float64], width: int, arl_blocks: float, risk: float) -> Range | None:
    if not is_long_enough(len(rows), rows.shape[1], width, risk):
        return None
    return fit_range(rows, width, arl_blocks, risk)


def _missing_watch(rows: NDArray[np.float64], arl_rows: float) -> MissingWatch:
    absent = np.isnan(rows)
    whole = absent[: len(rows) // BLOCK * BLOCK].reshape(-1, BLOCK, rows.shape[1]).sum(axis=1)
    bands = missing_bands(whole, BLOCK, arl_rows / BLOCK)
    return MissingWatch(BlockCounts(bands, BLOCK, arl_rows / BLOCK), absent.mean(axis=0))


def _pit_of(arrays: dict[str, NDArray[Any]]) -> Pit:
    lengths = arrays["cut_counts"]
    cuts = np.split(arrays["cuts"], np.cumsum(lengths)[:-1])
    places = np.cumsum(2 * lengths + 2)[:-1]
    ranks, spreads = np.split(arrays["ranks"], places), np.split(arrays["spreads"], places)
    return Pit(tuple(Column(*parts) for parts in zip(cuts, ranks, spreads, strict=True)))
