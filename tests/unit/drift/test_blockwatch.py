from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.blockwatch import (
    BlockWatch,
    Range,
    block_sums,
    fit_range,
    is_long_enough,
    reference_blocks,
)
from controlplane.drift.exceedance import Exceedances, exceedance_probability
from controlplane.drift.pit import Pit

Rows = NDArray[np.float64]
RISK = 0.01


def normal(seed: int, rows: int, columns: int) -> Rows:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def slow(seed: int, rows: int, columns: int, slowness: float) -> Rows:
    """Autoregressive, each row keeping ``slowness`` of the one before."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(rows, columns)) * np.sqrt(1 - slowness**2)
    for row in range(1, rows):
        noise[row] += slowness * noise[row - 1]
    return noise


def fitted(rows: Rows, width: int = 50, arl_blocks: float = 4_000) -> Range:
    limits = fit_range(rows, width, arl_blocks, RISK)
    assert limits is not None
    return limits


def test_the_worst_stream_of_a_reference_keeps_to_p0_in_all_but_few_references() -> None:
    """The bound on which everything stands: over references, P(some stream exceeds more often than p0) <= 1 %."""
    broken, worst = 0, []
    for seed in range(25):
        reference = normal(seed, 2_000, 20)
        limits = fitted(reference)
        fresh = block_sums(Pit.of(reference), normal(1_000 + seed, 40_000, 20), 50)
        often = float(limits.exceeded(fresh).mean(axis=0).max())
        worst.append(often)
        broken += often > limits.p0
    assert broken <= 1
    assert np.median(worst) > 0.25 * limits.p0  # the bound is needed: one in M would be broken every time


def test_blocks_ranked_by_the_other_half_lie_as_far_apart_as_blocks_to_come() -> None:
    """Ranked by themselves, ten blocks of 50 among 500 rows lie a tenth closer together, and alarms are the price."""
    apart, to_come, by_themselves = [], [], []
    for seed in range(10):
        reference = normal(seed, 1_000, 40)
        fresh = block_sums(Pit.of(reference), normal(100 + seed, 5_000, 40), 50)
        middle = 50 * (1 << 15)
        apart.append(((np.vstack(reference_blocks(reference, 50))[:, :40] - middle) ** 2).mean())
        to_come.append(((fresh[:, :40] - middle) ** 2).mean())
        by_themselves.append(((block_sums(Pit.of(reference), reference, 50)[:, :40] - middle) ** 2).mean())
    assert np.mean(by_themselves) < np.mean(to_come) <= 1.02 * np.mean(apart)


def test_a_mixture_over_streams_keeps_its_bound_whether_they_hang_together_or_not() -> None:
    """Blocks to a false alarm at the edge of what is tolerated: ``arl`` on average at least, for all at once."""
    p0, arl, streams = 0.1, 60.0, 40
    for copies in (1, streams):
        runs = []
        random = np.random.default_rng(copies)
        for _ in range(300):
            detector, blocks = Exceedances(streams, p0, arl), 0
            while True:
                blocks += 1
                if detector.update(np.repeat(random.random(streams // copies) < p0, copies)):
                    break
            runs.append(blocks)
        assert np.mean(runs) >= arl


def test_evidence_grows_by_the_likelihood_ratio_and_the_weights_sum_to_one() -> None:
    detector = Exceedances(4, 0.05, 1e9)
    assert float(detector._weights.sum() * 4) == pytest.approx(1)
    means = 0.05 * detector._hit + 0.95 * detector._miss
    assert means.ravel().tolist() == pytest.approx([1, 1, 1])


def test_a_smaller_reference_is_trusted_less() -> None:
    small, large = fitted(normal(1, 2_000, 5)), fitted(normal(1, 20_000, 5))
    assert large.p0 == pytest.approx(exceedance_probability(20, 400, RISK))
    assert small.p0 == pytest.approx(exceedance_probability(20, 40, RISK)) == pytest.approx(10 * large.p0)
    assert is_long_enough(2_000, 30, 50, RISK)
    assert not is_long_enough(2_000, 30, 200, RISK)


def test_a_reference_that_wanders_slowly_is_trusted_less_than_its_length_says() -> None:
    steady, trend = normal(1, 10_000, 5), np.linspace(0, 1.5, 10_000)[:, None]
    assert fitted(steady + trend).p0 > 1.5 * fitted(steady).p0


@pytest.mark.parametrize("slowness", [0.5, 0.9])
def test_rows_that_hang_on_each_other_raise_no_alarm(slowness: float) -> None:
    reference = slow(5, 20_000, 10, slowness)
    watch, pit = BlockWatch(fitted(reference), 4_000), Pit.of(reference)
    alarms = [watch.update(sums, 0) for sums in block_sums(pit, slow(6, 60_000, 10, slowness), 50)]
    assert not any(alarms)


def test_one_wild_row_moves_a_block_by_its_share_and_no_more() -> None:
    pit = Pit.of(normal(1, 5_000, 1))
    rows = normal(2, 50, 1)
    wild = rows.copy()
    wild[7] = 1e9
    moved = (block_sums(pit, wild, 50) - block_sums(pit, rows, 50))[0, 0]
    assert 0 < moved <= 1 << 16
