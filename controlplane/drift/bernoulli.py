"""Signals that are 0 or 1 a call: how often may each happen, and does it happen more often now?

Each signal is an e-detector of ``edetector.py`` against a *band*: a multiple of its reference rate, never less than
that rate's upper confidence limit, nor than a floor below which nobody cares. Costs and latencies become 0/1 by asking
whether they lie above the reference's 95th percentile. The bound asks that a signal happens at most as often as its
band *given the past*; signals that come in bursts break that, so the fit replays the reference and raises the band
until it is silent.

Missing values are one such signal for each column, all under one alarm. They are counted by block: the likelihood ratio
of a block of B rows is the product of its rows' and has conditional mean at most 1 as they have, so the same theory
holds with blocks for rows, and columns are mixed as streams in ``exceedance.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.edetector import HIGHEST_BAND, MIXTURE, ErrorDetector, Mixture, Reference, restored
from controlplane.drift.exceedance import StreamMixture
from controlplane.drift.verdict import Movement, Verdict

# For signals that are rare when all is well, where a fault makes them many times as frequent.
RARE_MIXTURE: Mixture = ((1.5, 0.15), (3.0, 0.25), (10.0, 0.30), (40.0, 0.30))
RAISE = 1.25
TAIL = 0.95  # of a cost or a latency


@dataclass(frozen=True, slots=True)
class Rule:
    """How much more of a signal is tolerated: ``tolerance`` times its reference rate, and ``floor`` in any case."""

    tolerance: float = 1.5
    floor: float = 0.005
    mixture: Mixture = RARE_MIXTURE
    is_tail: bool = False  # a number; what counts is whether it lies above the reference's 95th percentile


RULES: Mapping[str, Rule] = {
    "error": Rule(tolerance=1.10, floor=0.001, mixture=MIXTURE),  # labelled: the answer was wrong
    "timeout": Rule(),
    "refusal": Rule(),
    "schema": Rule(),  # the request broke its schema or its declared range
    "safety_block": Rule(),
    "tool_error": Rule(),
    "structured_output": Rule(),  # the answer was not the structure that was asked for
    "cost": Rule(is_tail=True),
    "latency": Rule(is_tail=True),
    "first_token": Rule(is_tail=True),
}


@dataclass(slots=True)
class Signal:
    """One named signal under watch. ``above`` turns numbers into 0/1; None where they are 0/1 already."""

    name: str
    detector: ErrorDetector
    reference_rate: float
    above: float | None = None
    crossings: int = 0

    @classmethod
    def fit(cls, name: str, reference: NDArray[np.float64], arl_rows: float) -> Signal:
        """From the signal's reference values in the order of time; NaN where there was none."""
        rule = RULES.get(name, Rule())
        known = reference[~np.isnan(reference)]
        if not len(known):
            raise ValueError(f"no reference values of {name}")
        above = float(np.quantile(known, TAIL)) if rule.is_tail else None
        events = known > above if above is not None else known != 0
        counted = Reference(int(events.sum()), len(events))
        band = counted.band(tolerance=rule.tolerance, floor=rule.floor)
        numbers = np.arange(1, len(events) + 1)
        while _alarms(band, arl_rows, rule.mixture, events, numbers) and band < HIGHEST_BAND:
            band = min(HIGHEST_BAND, RAISE * band)
        return cls(name, ErrorDetector(band, 1 / arl_rows, rule.mixture), counted.estimate, above)

    @classmethod
    def counted(cls, name: str, reference: Reference, arl_rows: float) -> Signal:
        """From counts alone: nothing to replay."""
        rule = RULES.get(name, Rule())
        band = reference.band(tolerance=rule.tolerance, floor=rule.floor)
        return cls(name, ErrorDetector(band, 1 / arl_rows, rule.mixture), reference.estimate)

    def feed(self, values: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Verdict]:
        """Values (n,) of the rows called ``numbers`` (n,); NaN where the signal has nothing to say."""
        known = ~np.isnan(values)
        if not known.all():
            values, numbers = values[known], numbers[known]
        events = values > self.above if self.above is not None else values != 0
        verdicts, start = [], 0
        while start < len(events):
            start += self.detector.take(events[start:], numbers[start:])
            if self.detector.alarmed:
                self.crossings += 1
                verdicts.append(self._verdict(int(numbers[start - 1])))
                self.detector.start_anew()
        return verdicts

    def _verdict(self, row: int) -> Verdict:
        detector = self.detector
        moved = Movement(
            stream=self.name,
            aspect="rate",
            rises=True,
            before=self.reference_rate,
            after=detector.rate_since_change,
            since_row=detector.change_row,
            share=1.0,
        )
        return Verdict(
            detector=self.name,
            movements=(moved,),
            row=row,
            evidence=detector.evidence,
            arl_rows=1 / detector.alpha,
            crossing=self.crossings,
        )

    def enrolled(self) -> dict[str, Any]:
        """``snapshot`` as it was before the first row."""
        fresh = ErrorDetector(self.detector.band, self.detector.alpha, self.detector.mixture)
        return Signal(self.name, fresh, self.reference_rate, self.above).snapshot()

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``signal_from`` makes an equal signal."""
        return {
            "name": self.name,
            "reference_rate": self.reference_rate,
            "above": self.above,
            "crossings": self.crossings,
            "detector": self.detector.snapshot(),
        }


def signal_from(snapshot: Mapping[str, Any]) -> Signal:
    """The signal as it was when ``snapshot`` was taken."""
    detector = restored(snapshot["detector"])
    return Signal(
        snapshot["name"], detector, snapshot["reference_rate"], snapshot["above"], crossings=snapshot["crossings"]
    )


def _alarms(
    band: float, arl_rows: float, mixture: Mixture, events: NDArray[np.bool_], numbers: NDArray[np.int64]
) -> bool:
    detector = ErrorDetector(band, 1 / arl_rows, mixture)
    detector.take(events, numbers)
    return detector.alarmed


@dataclass(slots=True, eq=False)
class BlockCounts(StreamMixture):
    """0/1 streams told by their counts in blocks of ``width`` rows; ``bands`` (streams,)."""

    bands: NDArray[np.float64]
    width: int
    arl_blocks: float
    _log_miss: NDArray[np.float64] = field(init=False, repr=False)
    _log_odds: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        odds = self.bands / (1 - self.bands) * np.array([times for times, _ in RARE_MIXTURE])[:, None]
        alternatives = odds / (1 + odds)
        self._log_miss = np.log((1 - alternatives) / (1 - self.bands))
        self._log_odds = np.log(alternatives / self.bands) - self._log_miss
        StreamMixture.__init__(self, [weight for _, weight in RARE_MIXTURE], len(self.bands))

    def log_factors(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """(alternatives, streams) log-likelihood ratios of a block with these ``counts`` (streams,)."""
        return counts * self._log_odds + self.width * self._log_miss

    def update(self, log_factors: NDArray[np.float64]) -> bool:
        self.multiply(np.exp(log_factors))
        return self.mixture >= self.arl_blocks


def missing_bands(counts: NDArray[np.int64], width: int, arl_blocks: float) -> NDArray[np.float64]:
    """Bands (columns,) for the missing share of each column, from its counts (blocks, columns) in the reference."""
    rule, rows = Rule(), max(1, len(counts) * width)
    totals = counts.sum(axis=0).tolist()
    bands = np.array([Reference(total, rows).band(tolerance=rule.tolerance, floor=rule.floor) for total in totals])
    while (loudest := _loudest(bands, counts, width, arl_blocks)) is not None and bands[loudest] < HIGHEST_BAND:
        bands[loudest] = min(HIGHEST_BAND, RAISE * bands[loudest])
    return bands


def _loudest(bands: NDArray[np.float64], counts: NDArray[np.int64], width: int, arl_blocks: float) -> int | None:
    """The column with most evidence where the replay of the reference alarms; None where it is silent."""
    detector = BlockCounts(bands, width, arl_blocks)
    for block in counts:
        if detector.update(detector.log_factors(block)):
            return int(np.argmax(detector.by_stream()))
    return None
