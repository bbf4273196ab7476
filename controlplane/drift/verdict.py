"""What a detector concludes, in plain values: which stream moved, how far, and since when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Aspect = Literal["location", "spread", "missing", "rate", "score"]
MILLI = 1_000
MILLION = 1_000_000
LARGEST = 2**53 - 1  # integer of a ledger record
MOST = 9e12  # whose thousandths are such an integer


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One stream that left its reference.

    ``before`` and ``after`` are in the unit of ``aspect``: for location the column's own unit (its median, or the share
    of the larger value where there are two), for spread the mean distance from the median in ranks (0 to 1), for
    missing and rate a share, for score the drift score. ``since_row`` is the estimated last row before the change.
    """

    stream: str
    aspect: Aspect
    rises: bool
    before: float
    after: float
    since_row: int
    share: float  # of the detector's evidence, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A detector's evidence reached its threshold at ``row``; ``movements`` has the strongest first."""

    detector: str
    movements: tuple[Movement, ...]
    row: int
    evidence: float  # the mixture of likelihood ratios; "score": the drift score
    arl_rows: float
    crossing: int = 1  # the how-manieth verdict of this detector; it starts anew after each

    @property
    def stream(self) -> str:
        return self.movements[0].stream

    @property
    def since_row(self) -> int:
        return self.movements[0].since_row

    def ledger(self) -> dict[str, int | str]:
        """The verdict in integers and words, as the ledger takes them."""
        first = self.movements[0]
        return {
            "detector": self.detector,
            "stream": first.stream,
            "aspect": first.aspect,
            "direction": "up" if first.rises else "down",
            "before_milli": _milli(first.before),
            "after_milli": _milli(first.after),
            "since_row": first.since_row,
            "row": self.row,
            "streams": ",".join(dict.fromkeys(movement.stream for movement in self.movements)),
            "evidence_log10_milli": int(MILLI * math.log10(min(max(self.evidence, 1e-300), 1e300))),
            "arl_rows": int(min(self.arl_rows, LARGEST)),
            "crossing": self.crossing,
        }


def _milli(value: float) -> int:
    return round(max(-MOST, min(MOST, value)) * MILLI) if math.isfinite(value) else 0
