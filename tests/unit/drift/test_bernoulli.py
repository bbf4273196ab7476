from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.bernoulli import RARE_MIXTURE, RULES, BlockCounts, Rule, Signal, missing_bands
from controlplane.drift.edetector import ErrorDetector, Reference


def coins(seed: int, rate: float, rows: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(rows) < rate).astype(float)


def test_the_band_is_a_multiple_of_the_rate_never_below_what_it_may_be_nor_the_floor() -> None:
    error = Signal.fit("error", coins(1, 0.10, 20_000), 1e6)
    reference = Reference(int(coins(1, 0.10, 20_000).sum()), 20_000)
    assert error.detector.band == pytest.approx(1.10 * reference.estimate)
    few = Signal.fit("error", coins(1, 0.10, 500), 1e6)
    assert few.detector.band == pytest.approx(Reference(int(coins(1, 0.10, 500).sum()), 500).upper())
    assert Signal.fit("refusal", np.zeros(20_000), 1e6).detector.band == pytest.approx(0.005)
    often = Signal.fit("refusal", coins(1, 0.10, 20_000), 1e6)
    assert often.detector.band == pytest.approx(1.5 * reference.estimate)


@pytest.mark.parametrize("mixture", [RARE_MIXTURE, *(rule.mixture for rule in RULES.values())])
def test_every_mixture_is_convex(mixture: tuple[tuple[float, float], ...]) -> None:
    assert sum(weight for _, weight in mixture) == pytest.approx(1)


def test_a_number_is_held_against_the_references_own_tail() -> None:
    random = np.random.default_rng(1)
    latency = Signal.fit("latency", random.lognormal(size=20_000), 1e6)
    assert latency.above == pytest.approx(np.exp(1.645), rel=0.05)
    assert latency.reference_rate == pytest.approx(0.05, abs=0.002)
    assert latency.feed(random.lognormal(size=50_000), np.arange(50_000)) == []


def test_bursts_in_the_reference_raise_the_band_until_its_replay_is_silent() -> None:
    values = np.zeros(20_000)
    for start in range(1_000, 20_000, 2_000):
        values[start : start + 10] = 1
    signal = Signal.fit("timeout", values, 1e6)
    assert signal.detector.band > 0.05
    assert signal.feed(values, np.arange(20_000)) == []


def test_a_signal_never_seen_cannot_be_watched() -> None:
    with pytest.raises(ValueError, match="no reference values of cost"):
        Signal.fit("cost", np.full(10, np.nan), 1e6)


def test_a_missing_share_of_the_reference_is_tolerated_and_twice_as_much_is_not() -> None:
    reference = (np.random.default_rng(1).random((400, 50, 3)) < [0.0, 0.2, 0.2]).sum(axis=1)
    bands = missing_bands(reference, 50, 20_000)
    detector = BlockCounts(bands, 50, 20_000)
    random = np.random.default_rng(2)
    usual = (random.random((2_000, 50, 3)) < [0.0, 0.2, 0.2]).sum(axis=1)
    assert not any(detector.update(detector.log_factors(block)) for block in usual)
    doubled = (random.random((20, 50, 3)) < [0.0, 0.2, 0.4]).sum(axis=1)
    assert any(detector.update(detector.log_factors(block)) for block in doubled)
    assert int(np.argmax(detector.by_stream())) == 2


def test_gaps_that_come_in_blocks_raise_the_band_of_their_column_alone() -> None:
    counts = np.zeros((400, 2), np.int64)
    counts[::40, 1] = 25
    bands = missing_bands(counts, 50, 20_000)
    assert bands[0] == pytest.approx(Rule().floor)
    assert bands[1] > 2 * Reference(250, 20_000).band(tolerance=1.5)


def test_counts_of_a_block_are_worth_what_its_rows_are() -> None:
    """A block of one row is a row."""
    errors = coins(3, 0.05, 400)
    row = ErrorDetector(0.01, 1e-300, RARE_MIXTURE)
    blocks = BlockCounts(np.array([0.01]), 1, 1e300)
    for error in errors:
        row.update(int(error))
        blocks.update(blocks.log_factors(np.array([int(error)])))
    assert blocks.mixture == pytest.approx(row.evidence)


def test_the_bound_holds_over_blocks_and_columns_together() -> None:
    runs, random, bands = [], np.random.default_rng(4), np.full(20, 0.02)
    for _ in range(150):
        detector, blocks = BlockCounts(bands, 50, 60.0), 0
        while True:
            blocks += 1
            counts = random.binomial(50, 0.02, 20)
            if detector.update(detector.log_factors(counts)):
                break
        runs.append(blocks)
    assert np.mean(runs) >= 60
