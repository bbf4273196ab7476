"""Many 0/1 streams under one anytime-valid alarm: e-detectors mixed over streams.

Theory. As in ``edetector.py`` (Shin, Ramdas and Rinaldo, arXiv 2203.03532), for each stream s and each alternative a
the Shiryaev-Roberts recursion R = (1 + R) L makes R_t - t a supermartingale while P(x_t = 1 | past) <= p0. A convex
mixture over streams and alternatives does so too, since expectation is linear: **nothing is asked about the dependence
between streams**. By optional stopping the first time at which the mixture reaches A has mean at least A, for all
streams together.

A stream's x_t says here that a block mean lay outside everything that the reference showed. How rare that is follows
from exchangeability: given M reference blocks, a new block of the same kind exceeds the largest of them with a
probability q that is itself random over the draw of the reference, P(q > x) = (1 - x)^M <= exp(-M x). With a union
bound over S streams (each side of a statistic is a stream)

    p0 = ln(S / delta) / M

holds for all streams at once with probability at least 1 - delta over the reference. Quantiles of the reference taken
at face value forget this: at M = 40 the worst of 120 streams exceeds its maximum in one block of seven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Alternatives, as the part of the way from p0 to certainty, with their weights. A shift beyond the range shows in every
# block: most weight where one exceedance counts most.
MIXTURE = ((0.25, 0.25), (0.60, 0.25), (0.96, 0.50))
CUSUM_PART = 1  # the middle one dates the change: a single block inside the range does not end an excursion


def exceedance_probability(streams: int, blocks: int, risk: float) -> float:
    """p0: with probability 1 - ``risk`` over the reference, no stream exceeds its range more often. May be above 1."""
    return math.log(streams / risk) / blocks


class StreamMixture:
    """The evidence of many 0/1 streams, each under several alternatives, mixed into one; streams weigh alike."""

    __slots__ = ("_weights", "evidence")

    def __init__(self, weights: Sequence[float], streams: int) -> None:
        self._weights = np.array(weights) / streams
        self.evidence = np.zeros((len(weights), streams))

    def multiply(self, factors: NDArray[np.float64]) -> None:
        """One step of the recursion with likelihood ratios (alternatives, streams)."""
        self.evidence += 1.0
        self.evidence *= factors

    @property
    def mixture(self) -> float:
        return float(self._weights @ self.evidence.sum(axis=1))

    def by_stream(self) -> NDArray[np.float64]:
        """(streams,) each stream's part in ``mixture``."""
        return self._weights @ self.evidence

    def start_anew(self) -> None:
        self.evidence[:] = 0.0


@dataclass(slots=True, eq=False)
class Exceedances(StreamMixture):
    """The mixture over ``streams`` 0/1 streams; the mean number of blocks to a false alarm is at least ``arl``."""

    streams: int
    p0: float
    arl: float
    log_factors: tuple[float, float] = field(init=False, repr=False)  # of the dating alternative: miss, hit
    _hit: NDArray[np.float64] = field(init=False, repr=False)
    _miss: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.p0 < 1 or self.arl <= 1:
            raise ValueError("p0 must lie in (0, 1) and arl above 1")
        alternatives = np.array([self.p0 + (1 - self.p0) * part for part, _ in MIXTURE])
        self._hit = (alternatives / self.p0)[:, None]
        self._miss = ((1 - alternatives) / (1 - self.p0))[:, None]
        StreamMixture.__init__(self, [weight for _, weight in MIXTURE], self.streams)
        self.log_factors = (math.log(self._miss[CUSUM_PART, 0]), math.log(self._hit[CUSUM_PART, 0]))

    def update(self, exceeds: NDArray[np.bool_]) -> bool:
        """Take one block in, (streams,); whether the mixture has reached its threshold."""
        self.multiply(np.where(exceeds, self._hit, self._miss))
        return self.mixture >= self.arl
