"""An anytime-valid detector of a labelled error rate that left its band.

Theory. Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (New
England Journal of Statistics in Data Science 2(2), 2024; arXiv 2203.03532). Let x_1, x_2, … be 0/1 errors. "In band"
means that P(x_t = 1 | past) <= m for every t. For one alternative p > m

    L_t = (p/m)^x_t ((1-p)/(1-m))^(1-x_t)

has conditional mean at most 1 in band: with q = P(x_t = 1 | past), E[L_t | past] = 1 + (q-m)(p-m)/(m(1-m)), which grows
with q and is 1 at q = m. The Shiryaev-Roberts recursion R_t = (1 + R_{t-1}) L_t sums the evidence for "it changed at
j" over all j, and R_t - t is a supermartingale. So is that of a convex mixture over alternatives. By optional stopping
the first time N at which the mixture reaches 1/alpha satisfies

    E[N] >= 1/alpha

in band, at every error rate within the band and under any dependence between rows that respects it, with no correction
for looking after every row. That is the false alarm bound: on average at least 1/alpha rows between false alarms.

The band is ``1.10`` times the reference error (its upper confidence limit, since it is itself an estimate): a model
that is ten percent worse is a nuisance, not a verdict.

The change point is the classic estimate: the start of the largest CUSUM excursion (Page, "Continuous inspection
schemes", Biometrika 1954) of the alternative that fits best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

TOLERANCE = 1.10
HIGHEST_BAND = 0.90  # above it nothing is left to detect
# Alternatives as multiples of the band's odds, so that they fit rare and common errors alike, each with its weight in
# the mixture. Few, because every further one thins the others: five or six spread evenly took 3 to 4 % more rows in
# benchmarks/drift.py. The lightest is for changes that barely leave the band, where rows are cheap and time is long.
MIXTURE = ((1.2, 0.1), (1.5, 0.3), (2.2, 0.3), (6.0, 0.3))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the version's error was when it was good: ``errors`` among ``rows`` labelled rows."""

    errors: int
    rows: int

    @property
    def estimate(self) -> float:
        return self.errors / self.rows

    def upper(self, confidence: float = 0.95) -> float:
        """Wilson's upper confidence limit (JASA 1927): a learnt reference must not be trusted to be exact."""
        z = NormalDist().inv_cdf(confidence)
        n, p = self.rows, self.estimate
        centre = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(1.0, (centre + spread) / (1 + z * z / n))

    def band(self, confidence: float = 0.95) -> float:
        """Highest error rate that is still tolerated."""
        return min(HIGHEST_BAND, max(0.001, TOLERANCE * self.upper(confidence)))


@dataclass(slots=True)
class ErrorDetector:
    """Feed it one error (0 or 1) a row; it alarms once and stays alarmed until it is replaced.

    ``alpha``: the mean number of rows to a false alarm is at least 1/alpha while the error stays in ``band``.
    """

    band: float
    alpha: float = 1e-5
    rows: int = 0
    alarmed: bool = False
    evidence: float = 0.0  # the mixture; an alarm when it reaches 1/alpha
    _hit: tuple[float, ...] = field(init=False, repr=False)  # L_t of each alternative for an error
    _miss: tuple[float, ...] = field(init=False, repr=False)  # and for a correct row
    _roberts: list[float] = field(init=False, repr=False)
    _cusum: list[float] = field(init=False, repr=False)  # log-likelihood ratio of the current excursion
    _began: list[int] = field(init=False, repr=False)  # row after which that excursion began

    def __post_init__(self) -> None:
        if not 0 < self.band <= HIGHEST_BAND or not 0 < self.alpha < 1:
            raise ValueError("band must lie in (0, 0.9] and alpha in (0, 1)")
        odds = self.band / (1 - self.band)
        alternatives = [odds * times / (1 + odds * times) for times, _ in MIXTURE]
        self._hit = tuple(p / self.band for p in alternatives)
        self._miss = tuple((1 - p) / (1 - self.band) for p in alternatives)
        self._roberts = [0.0] * len(alternatives)
        self._cusum = [0.0] * len(alternatives)
        self._began = [0] * len(alternatives)

    def update(self, error: int) -> bool:
        """Take one row in; True from the alarm on."""
        if self.alarmed:
            return True
        factors = self._hit if error else self._miss
        self.rows += 1
        for i, factor in enumerate(factors):
            self._roberts[i] = (1.0 + self._roberts[i]) * factor
            excursion = self._cusum[i] + math.log(factor)
            if excursion <= 0.0:
                excursion, self._began[i] = 0.0, self.rows
            self._cusum[i] = excursion
        self.evidence = sum(weight * roberts for (_, weight), roberts in zip(MIXTURE, self._roberts, strict=True))
        self.alarmed = self.evidence >= 1 / self.alpha
        return self.alarmed

    def update_all(self, errors: Iterable[int]) -> bool:
        return any(self.update(error) for error in errors)

    @property
    def change_row(self) -> int:
        """Estimate of how many of the rows seen came before the change."""
        best = max(range(len(self._cusum)), key=self._cusum.__getitem__)
        return self._began[best]

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``restored`` makes an equal detector."""
        return {
            "band": self.band,
            "alpha": self.alpha,
            "rows": self.rows,
            "alarmed": self.alarmed,
            "evidence": self.evidence,
            "roberts": list(self._roberts),
            "cusum": list(self._cusum),
            "began": list(self._began),
        }


def restored(snapshot: dict[str, Any]) -> ErrorDetector:
    """The detector as it was when ``snapshot`` was taken."""
    detector = ErrorDetector(snapshot["band"], snapshot["alpha"])
    detector.rows, detector.alarmed, detector.evidence = snapshot["rows"], snapshot["alarmed"], snapshot["evidence"]
    detector._roberts, detector._cusum, detector._began = (  # noqa: SLF001 - the other half of ``snapshot``
        list(snapshot["roberts"]),
        list(snapshot["cusum"]),
        list(snapshot["began"]),
    )
    return detector
