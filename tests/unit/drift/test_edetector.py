from __future__ import annotations

import random
from statistics import mean, median

import pytest

from controlplane.drift.edetector import ErrorDetector, Reference


def coin(seed: int, probability: float, rows: int) -> list[int]:
    chance = random.Random(seed)
    return [int(chance.random() < probability) for _ in range(rows)]


def delay(seed: int, before: float, after: float, band: float) -> int:
    """Rows from the change to the alarm; -1 for an alarm before it."""
    detector = ErrorDetector(band)
    if detector.update_all(coin(seed, before, 3_000)):
        return -1
    for row, error in enumerate(coin(seed + 1_000, after, 20_000), start=1):
        if detector.update(error):
            return row
    raise AssertionError("missed")


def test_no_alarm_while_nothing_changes() -> None:
    for seed in range(3):
        assert not ErrorDetector(0.11).update_all(coin(seed, 0.10, 50_000))


def test_the_mean_run_to_a_false_alarm_is_at_least_one_in_alpha_even_at_the_edge_of_the_band() -> None:
    """The bound itself, at an alpha that lets it be seen: the worst case in band is an error rate equal to the band."""
    runs = []
    for seed in range(150):
        chance, detector = random.Random(seed), ErrorDetector(0.11, alpha=1 / 200)
        while not detector.update(chance.random() < 0.11):
            pass
        runs.append(detector.rows)
    assert mean(runs) >= 200


def test_doubled_error_is_found_within_250_labels_and_quadrupled_within_40() -> None:
    doubled = [delay(seed, 0.10, 0.20, 0.11) for seed in range(25)]
    quadrupled = [delay(seed, 0.10, 0.40, 0.11) for seed in range(25)]
    assert min(doubled) > 0
    assert median(doubled) <= 250
    assert median(quadrupled) <= 40


def test_the_change_point_is_found() -> None:
    detector = ErrorDetector(0.11)
    detector.update_all(coin(3, 0.10, 3_000))
    assert detector.update_all(coin(4, 0.40, 1_000))
    assert abs(detector.change_row - 3_000) <= 25


def test_an_alarm_stays_until_the_detector_is_replaced() -> None:
    detector = ErrorDetector(0.11)
    assert detector.update_all([1] * 100)
    assert detector.update_all([0] * 10)


@pytest.mark.parametrize(("errors", "rows", "low", "high"), [(100, 1_000, 0.10, 0.14), (0, 50, 0.0, 0.10)])
def test_a_small_reference_gets_a_wider_band(errors: int, rows: int, low: float, high: float) -> None:
    small, large = Reference(errors, rows), Reference(errors * 100, rows * 100)
    assert low * 1.10 <= large.band() < small.band() <= high


@pytest.mark.parametrize(("band", "alpha"), [(0.0, 0.1), (0.95, 0.1), (0.1, 0.0), (0.1, 1.0)])
def test_impossible_settings_are_refused(band: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="must lie"):
        ErrorDetector(band, alpha)
