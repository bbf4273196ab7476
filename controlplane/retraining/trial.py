"""A challenger on trial: what its server makes of copies of calls, held against what its files say. Pure.

The paired gate says whether a challenger is better, on every labelled row, and needs no server for that. Copies answer
what rows cannot: does a server load it, answer with it, in time, and say what the files say? A share must be within its
bound before the challenger may answer anybody; it is refused as soon as the share cannot come within it any more among
the first ``CALLS`` copies, or ``ROWS`` rows of them. So one copy that fails early costs patience and not the trial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.rows import CopiedCall
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.comparing import MILLION

CALLS, ROWS = 200, 5_000
SLOW_PPM = 200_000  # one copy in five may be slow: copies are the least urgent of all calls


@dataclass(slots=True)
class Trial:
    """``since`` is the number of the last labelled row that was known before it, ``since_ms`` when calls began to be
    copied (Unix time): what was predicted before that could not be. ``upto`` is the number of the last copy that was
    counted; ``refused`` is why the server would not load it, if so.
    """

    since: int
    since_ms: int = 0
    upto: int = 0
    refused: str = ""
    calls: int = 0
    failed: int = 0
    slow: int = 0
    rows: int = 0
    differing: int = 0

    def count(self, copy: CopiedCall, expected: NDArray[np.int64], slow_s: float) -> None:
        """``expected`` are the classes (n,) that its files give."""
        self.upto = copy.number
        self.calls += 1
        if copy.failed:
            self.failed += 1
            return
        self.slow += copy.latency_us > slow_s * MILLION
        self.rows += len(expected)
        self.differing += int((copy.predicted != expected).sum())

    def fault(self, bounds: ActingSettings, labelled: int) -> str:
        """Why it is refused, or "". ``labelled`` rows were predicted since it began: some should have been copied."""
        if self.refused:
            return self.refused
        hopeless = {
            "copies_failed": self.failed * MILLION > bounds.shadow_bad_ppm * CALLS,
            "copies_slow": self.slow * MILLION > SLOW_PPM * CALLS,
            "copies_differ": self.differing * MILLION > bounds.shadow_bad_ppm * ROWS,
            "no_copies": self.rows < bounds.shadow_rows and labelled >= ROWS,
        }
        return next((cause for cause, holds in hopeless.items() if holds), "")

    def is_passed(self, bounds: ActingSettings) -> bool:
        return (
            self.rows >= bounds.shadow_rows
            and self.failed * MILLION <= bounds.shadow_bad_ppm * self.calls
            and self.slow * MILLION <= SLOW_PPM * self.calls
            and self.differing * MILLION <= bounds.shadow_bad_ppm * self.rows
        )

    def evidence(self) -> dict[str, int | str]:
        said = ("calls", "failed", "slow", "rows", "differing")
        return {f"copied_{name}": getattr(self, name) for name in said}

    def snapshot(self) -> dict[str, Any]:
        return asdict(self)


def resumed_trial(snapshot: dict[str, Any]) -> Trial:
    return Trial(**snapshot)


def rows_of(copies: Iterable[CopiedCall]) -> NDArray[np.float64]:
    """All rows (n, features) that were answered, in their order; (0, 0) where there is none."""
    answered = [copy.inputs for copy in copies if not copy.failed]
    return np.concatenate(answered) if answered else np.empty((0, 0))
