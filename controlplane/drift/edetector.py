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

The band is ``1.10`` times the reference error, since a model that is ten percent worse is a nuisance, not a verdict;
and never less than the upper confidence limit of that error, since the reference is itself an estimate. So the bound
holds with 99 % probability over the reference when nothing has changed.

The change point is the classic estimate: the start of the largest CUSUM excursion (Page, "Continuous inspection
schemes", Biometrika 1954) of the alternative that fits best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1.10
Mixture = tuple[tuple[float, float], ...]  # (times the band's odds, weight)
HIGHEST_BAND = 0.90  # above it nothing is left to detect
HIGHEST_EXCURSION = 50.0  # a verdict takes about 15; a change that is over must be forgotten before the next one
# Alternatives as multiples of the band's odds, so that they fit rare and common errors alike, each with its weight in
# the mixture. Few, because every further one thins the others: five or six spread evenly took 3 to 4 % more rows in
# benchmarks/drift. The lightest is for changes that barely leave the band, where rows are cheap and time is long.
MIXTURE: Mixture = ((1.2, 0.1), (1.5, 0.3), (2.2, 0.3), (6.0, 0.3))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the version's error was when it was good: ``errors`` among ``rows`` labelled rows."""

    errors: int
    rows: int

    @property
    def estimate(self) -> float:
        return self.errors / self.rows

    def upper(self, confidence: float = 0.99) -> float:
        """Wilson's upper confidence limit (JASA 1927): a learnt reference must not be trusted to be exact."""
        z = NormalDist().inv_cdf(confidence)
        n, p = self.rows, self.estimate
        centre = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(1.0, (centre + spread) / (1 + z * z / n))

    def band(self, *, tolerance: float = TOLERANCE, floor: float = 0.001) -> float:
        """Highest rate that is still tolerated."""
        return min(HIGHEST_BAND, max(floor, tolerance * self.estimate, self.upper()))


@dataclass(slots=True)
class ErrorDetector:
    """Feed it one error (0 or 1) a row; it alarms once and stays alarmed until it is replaced or started anew.

    ``alpha``: the mean number of rows to a false alarm is at least 1/alpha while the error stays in ``band``. Correct
    rows are only counted and weighed in at the next error: an alarm falls on an error, and a stream gives the same
    evidence to the last bit in whatever batches it comes.
    """

    band: float
    alpha: float = 1e-5
    mixture: Mixture = MIXTURE
    rows: int = 0
    alarmed: bool = False
    _misses: int = 0  # correct rows since the last error
    _last: int = 0  # number of the last row
    _hit: tuple[float, ...] = field(init=False, repr=False)  # L_t of each alternative for an error
    _miss: tuple[float, ...] = field(init=False, repr=False)  # and for a correct row
    _roberts: list[float] = field(init=False, repr=False)
    _cusum: list[float] = field(init=False, repr=False)  # log-likelihood ratio of the current excursion
    _began: list[int] = field(init=False, repr=False)  # number of the row after which that excursion began
    _since: list[list[int]] = field(init=False, repr=False)  # errors and rows of that excursion

    def __post_init__(self) -> None:
        if not 0 < self.band <= HIGHEST_BAND or not 0 < self.alpha < 1:
            raise ValueError("band must lie in (0, 0.9] and alpha in (0, 1)")
        odds = self.band / (1 - self.band)
        alternatives = [odds * times / (1 + odds * times) for times, _ in self.mixture]
        self._hit = tuple(p / self.band for p in alternatives)
        self._miss = tuple((1 - p) / (1 - self.band) for p in alternatives)
        self._roberts = [0.0] * len(alternatives)
        self._cusum = [0.0] * len(alternatives)
        self._began = [0] * len(alternatives)
        self._since = [[0, 0] for _ in alternatives]

    def update(self, error: int) -> bool:
        """Take one row in; True from the alarm on."""
        if self.alarmed:
            return True
        self.rows += 1
        if error:
            self._weigh_error(before=self._last)
        else:
            self._misses += 1
        self._last = self.rows
        return self.alarmed

    def update_all(self, errors: Iterable[int]) -> bool:
        return any(self.update(error) for error in errors)

    def take(self, errors: NDArray[np.bool_], numbers: NDArray[np.int64]) -> int:
        """Take rows in up to the alarm; how many were taken. ``numbers`` (n,) are what ``change_row`` speaks of."""
        taken = 0
        for i in np.flatnonzero(errors).tolist():
            self._misses += i - taken
            self._weigh_error(before=int(numbers[i - 1]) if i else self._last)
            taken = i + 1
            if self.alarmed:
                break
        if not self.alarmed:
            self._misses += len(errors) - taken
            taken = len(errors)
        if taken:
            self.rows, self._last = self.rows + taken, int(numbers[taken - 1])
        return taken

    def _weigh_error(self, before: int) -> None:
        misses = self._misses
        for i, (hit, miss) in enumerate(zip(self._hit, self._miss, strict=True)):
            self._roberts[i] = (1.0 + _after_misses(self._roberts[i], miss, misses)) * hit
            excursion = self._cusum[i] + misses * math.log(miss)
            since = self._since[i]
            if excursion <= 0.0:
                excursion, self._began[i] = 0.0, before
                since[0], since[1] = 1, 1
            else:
                since[0], since[1] = since[0] + 1, since[1] + misses + 1
            self._cusum[i] = min(HIGHEST_EXCURSION, excursion + math.log(hit))
        self._misses = 0
        self.alarmed = self.evidence >= 1 / self.alpha

    @property
    def evidence(self) -> float:
        """The mixture; an alarm when it reaches 1/alpha at an error."""
        return sum(self._parts())

    def _parts(self) -> list[float]:
        """Each alternative's part in the evidence."""
        parts = zip(self.mixture, self._roberts, self._miss, strict=True)
        return [weight * _after_misses(roberts, miss, self._misses) for (_, weight), roberts, miss in parts]

    @property
    def change_row(self) -> int:
        """Estimate of the last row before the change: its number, or how many rows of those seen came before it."""
        best = self._best_fit()
        return self._last if best is None else self._began[best]

    @property
    def rate_since_change(self) -> float:
        """The share of errors from the estimated change on; 0 where nothing speaks for one."""
        best = self._best_fit()
        return 0.0 if best is None else self._since[best][0] / (self._since[best][1] + self._misses)

    def _best_fit(self) -> int | None:
        """The alternative with the most evidence, if its excursion still runs."""
        parts = self._parts()
        best = max(range(len(parts)), key=parts.__getitem__)
        return best if self._cusum[best] + self._misses * math.log(self._miss[best]) > 0 else None

    def start_anew(self) -> None:
        """Forget the evidence but not where the change was: one that lasts alarms again and says since when."""
        self._roberts = [0.0] * len(self._roberts)
        self.alarmed = False

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``restored`` makes an equal detector."""
        return {
            "band": self.band,
            "alpha": self.alpha,
            "mixture": [list(part) for part in self.mixture],
            "rows": self.rows,
            "alarmed": self.alarmed,
            "evidence": self.evidence,
            "misses": self._misses,
            "last": self._last,
            "roberts": list(self._roberts),
            "cusum": list(self._cusum),
            "began": list(self._began),
            "since": [list(counts) for counts in self._since],
        }


def _after_misses(roberts: float, miss: float, misses: int) -> float:
    """The recursion R = (1 + R) L, ``misses`` times with the same L = ``miss`` < 1."""
    kept = miss**misses
    return roberts * kept + miss * (1.0 - kept) / (1.0 - miss)


def restored(snapshot: Mapping[str, Any]) -> ErrorDetector:
    """The detector as it was when ``snapshot`` was taken."""
    mixture = tuple((float(times), float(weight)) for times, weight in snapshot.get("mixture", MIXTURE))
    detector = ErrorDetector(snapshot["band"], snapshot["alpha"], mixture)
    detector.rows, detector.alarmed = snapshot["rows"], snapshot["alarmed"]
    detector._misses, detector._last = (  # noqa: SLF001 - the other half of ``snapshot``
        snapshot.get("misses", 0),
        snapshot.get("last", snapshot["rows"]),
    )
    detector._roberts, detector._cusum, detector._began = (  # noqa: SLF001 - as above
        list(snapshot["roberts"]),
        list(snapshot["cusum"]),
        list(snapshot["began"]),
    )
    detector._since = [list(counts) for counts in snapshot.get("since", detector._since)]  # noqa: SLF001 - as above
    return detector
