from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.calibrated import ScoreScale, WindowWatch, calibrate

Rows = NDArray[np.float64]
NAMES = [f"c{j}" for j in range(12)]


def tailed(seed: int, rows: int, columns: int = 12) -> Rows:
    random = np.random.default_rng(seed)
    kinds = (
        lambda n: random.normal(size=n),
        lambda n: random.lognormal(size=n),
        lambda n: random.standard_t(2.5, n),
        np.ones,
    )
    return np.column_stack([kinds[j % 4](rows) for j in range(columns)])


SMALL, LARGE = calibrate(tailed(0, 10_000), 200, 2_000), calibrate(tailed(0, 10_000), 1_000, 2_000)


def largest_scores(scale: ScoreScale, rows: Rows) -> Rows:
    windows = np.split(rows, len(rows) // scale.window_rows)
    return np.array([scale.scores(scale.counts(scale.places(window))).max() for window in windows])


def test_three_tenths_is_one_false_window_in_a_thousand_at_every_size() -> None:
    for scale, rows in ((SMALL, 200_000), (LARGE, 400_000)):
        found = largest_scores(scale, tailed(1, rows))
        assert (found >= 0.3).mean() <= 0.005
        assert np.median(found) > 0.1
        assert scale.false_windows(0.3) <= 0.001 + 1e-9


def test_a_lower_threshold_costs_what_the_scale_says() -> None:
    threshold = 0.2
    told, found = LARGE.false_windows(threshold), (largest_scores(LARGE, tailed(2, 400_000)) >= threshold).mean()
    assert 0.01 < told < 0.5
    assert abs(found - told) < 0.5 * told + 0.02


def test_a_quarter_of_a_standard_deviation_in_one_column_scores_above_the_threshold() -> None:
    rows = tailed(3, 20_000)
    rows[:, 0] += 0.25
    assert (largest_scores(LARGE, rows) >= 0.3).mean() >= 0.9


def test_one_value_beyond_all_measure_is_one_row_and_no_more() -> None:
    rows = tailed(4, 1_000)
    before = LARGE.scores(LARGE.counts(LARGE.places(rows)))
    rows[17] = 1e9
    after = LARGE.scores(LARGE.counts(LARGE.places(rows)))
    varying = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert (after[varying] - before[varying] < 0.05).all()
    assert (after <= 1).all()


def test_a_season_longer_than_a_window_is_calibrated_by_the_references_own_windows() -> None:
    """Windows drawn in small blocks mix its phases; those in the order of time do not."""
    wave = np.sqrt(0.5) * np.sin(2 * np.pi * np.arange(60_000) / 5_000)[:, None]
    rows = np.random.default_rng(1).normal(size=(60_000, 4)) + wave
    scale = calibrate(rows[:20_000], 1_000, 2_000)
    assert (largest_scores(scale, rows[20_000:]) >= 0.3).mean() <= 0.1


def test_a_constant_that_becomes_another_is_seen() -> None:
    rows = tailed(5, 1_000)
    rows[:, 3] = 2.0
    assert LARGE.scores(LARGE.counts(LARGE.places(rows)))[3] == 1.0


def test_windows_follow_each_other_whatever_the_batches() -> None:
    rows = tailed(6, 5_000)
    rows[2_500:, 1] *= 2
    numbers = np.arange(1, 5_001)
    whole, parts = WindowWatch(NAMES, LARGE, 0.3), WindowWatch(NAMES, LARGE, 0.3)
    told = whole.feed(rows, numbers)
    in_parts = [v for i in range(0, 5_000, 333) for v in parts.feed(rows[i : i + 333], numbers[i : i + 333])]
    assert told == in_parts
    assert [verdict.row for verdict in told] == [3_000, 4_000, 5_000]
    assert told[0].since_row == 2_000
    assert (told[1].stream, told[1].movements[0].rises) == ("c1", True)


def test_missing_values_are_left_to_those_who_count_them() -> None:
    rows = tailed(7, 1_000)
    rows[::2, 0] = np.nan
    assert LARGE.scores(LARGE.counts(LARGE.places(rows)))[0] < 0.3
    rows[:, 0] = np.nan
    assert np.isfinite(LARGE.scores(LARGE.counts(LARGE.places(rows)))).all()
