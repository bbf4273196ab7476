"""The RAND Health Insurance Experiment: 20,190 real person-years, read from the statsmodels wheel without importing it.

The rows are shuffled with a fixed seed and cut into three parts: what the first version is trained on, what its
reference error is measured on, and what agents then ask about. A *label* is whether the person saw a doctor that year.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = ("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
CLASSES = ("low", "high")
SEED = 20_191
TRAINING_ROWS, REFERENCE_ROWS = 8_000, 3_000
VISITS_FOR_HIGH, VISITS_FOR_HIGH_AFTER_CHANGE = 1, 3


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """``inputs`` (n, 9) float64 in the order of ``FEATURES``; ``visits`` (n,) doctor visits in that year."""

    inputs: NDArray[np.float64]
    visits: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) 1 for "high": at least one visit."""
        return (self.visits >= VISITS_FOR_HIGH).astype(np.int64)

    def part(self, start: int, stop: int | None) -> Rows:
        return Rows(self.inputs[start:stop], self.visits[start:stop])


@dataclass(frozen=True, slots=True)
class Parts:
    training: Rows
    reference: Rows
    stream: Rows


def load() -> Parts:
    """The three parts, always the same rows in the same order.

    Raises:
        FileNotFoundError: statsmodels, whose wheel carries the rows, is not installed.
    """
    table = np.loadtxt(_file(), delimiter=",", skiprows=1)
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    rows = Rows(inputs=table[:, 1:], visits=table[:, 0].astype(np.int64))
    reference_end = TRAINING_ROWS + REFERENCE_ROWS
    return Parts(rows.part(0, TRAINING_ROWS), rows.part(TRAINING_ROWS, reference_end), rows.part(reference_end, None))


def _file() -> Path:
    found = importlib.util.find_spec("statsmodels")  # finds the folder; importing it would load pandas and scipy
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("statsmodels is not installed: pip install 'agent-controlplane[drift]'")
    return Path(found.submodule_search_locations[0]) / "datasets" / "randhie" / "randhie.csv"


def concept_change(rows: Rows) -> NDArray[np.int64]:
    """(n,) labels after the INJECTED change: "high" now means at least three visits.

    The change is ours and not in the survey: we move the definition. The people, their answers and their counts of
    visits stay as they were, so the new concept is as real and as learnable as the old one.
    """
    return (rows.visits >= VISITS_FOR_HIGH_AFTER_CHANGE).astype(np.int64)


def benign_shift(rows: Rows) -> Rows:
    """Other people, same concept: only those with more chronic conditions than most. Inputs move, errors fall."""
    sicker = rows.inputs[:, FEATURES.index("disea")] > np.median(rows.inputs[:, FEATURES.index("disea")])
    return Rows(rows.inputs[sicker], rows.visits[sicker])
