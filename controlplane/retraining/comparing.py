"""Two models on the same labelled rows: champion and challenger, or champion and fallback.

A row that was answered by one of them counts with the answer that was given, be it to a copy; the other's answer is
computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.store import Answers
from controlplane.retraining.promotion import PromotionGate, resumed_gate
from controlplane.retraining.scoring import Score

Broken = Callable[[int, NDArray[np.float64]], NDArray[np.bool_]]
"""(version, inputs of shape (n, features)) → (n,) which rows are not such as that version was made for."""

MILLION = 1_000_000


def none_broken(version: int, inputs: NDArray[np.float64]) -> NDArray[np.bool_]:  # noqa: ARG001  the shape of ``Broken``
    return np.zeros(len(inputs), bool)


def errors_of(
    answers: Answers, version: int, directory: Path, score: Score, copied: Mapping[int, int] | None = None
) -> NDArray[np.int64]:
    """(n,) 1 where ``version`` was wrong, or would have been. ``version`` 0: it has answered nothing itself. ``copied``
    has what it answered to copies, by the number of the row.

    Raises:
        ScoringFailed: ``directory`` cannot be scored.
    """
    given = answers.predicted.copy()
    other = answers.versions != version if version else np.ones(len(answers), bool)
    for place, number in enumerate(answers.numbers.tolist() if copied else ()):
        if copied and other[place] and number in copied:
            given[place], other[place] = copied[number], False
    if other.any():
        given[other] = score(directory, answers.inputs[other])
    return np.asarray(given != answers.labels, np.int64)


def gate_of(
    kept: dict[str, Any] | None, ppm: int, undecided: int, margin_ppm: int = 0, at_least: int = 0
) -> PromotionGate:
    """The gate as it was kept, or a new one that is wrong ``ppm`` times in a million."""
    if kept is not None:
        return resumed_gate(kept)
    return PromotionGate(ppm / MILLION, undecided, margin_ppm / MILLION, at_least)


def feed(gate: PromotionGate, champion: NDArray[np.int64], challenger: NDArray[np.int64]) -> None:
    gate.update_all(zip(champion.tolist(), challenger.tolist(), strict=True))


def live_rows(answers: Answers, version: int) -> int:
    """How many of the rows ``version`` answered itself."""
    return int((answers.versions == version).sum())
