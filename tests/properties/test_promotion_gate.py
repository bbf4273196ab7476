"""The promise of the gate, by simulation: whole courses at once, and the same rulings as the gate row by row."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.retraining.promotion import BETS, PromotionGate, Ruling

ALPHA, ROWS, COURSES = 0.01, 5_000, 2_000
Errors = NDArray[np.int8]


def both(seed: int, champion: float, challenger: float, courses: int, rows: int = ROWS) -> tuple[Errors, Errors]:
    """Errors (courses, rows) of two models that find the same rows hard: three rows in five share a draw."""
    chance = np.random.default_rng(seed)
    one = chance.random((courses, rows), np.float32)
    other = np.where(chance.random((courses, rows), np.float32) < 0.6, one, chance.random((courses, rows), np.float32))
    return (one < champion).astype(np.int8), (other < challenger).astype(np.int8)


def log_capital(difference: NDArray[np.int8], margin: float = 0.0) -> NDArray[np.float64]:
    """(courses, rows): what a gate's capital is after each row."""
    paths = [np.log1p(bet * (difference + margin)).cumsum(axis=1) for bet in BETS]
    return np.asarray(np.logaddexp.reduce(paths, axis=0) - np.log(len(BETS)))


def promoted(champion: Errors, challenger: Errors, margin: float = 0.0) -> NDArray[np.int64]:
    """(courses,) the row at which each course is promoted; 0: refused or never decided."""
    difference, threshold = champion - challenger, -np.log(ALPHA)
    wins, loses = log_capital(difference, margin) >= threshold, log_capital(-difference) >= threshold
    first_win = np.where(wins.any(axis=1), wins.argmax(axis=1), ROWS)
    first_loss = np.where(loses.any(axis=1), loses.argmax(axis=1), ROWS)
    return np.where(first_win < first_loss, first_win + 1, 0)


@pytest.mark.parametrize("error", [0.05, 0.17, 0.40])
def test_an_equal_challenger_is_promoted_at_most_once_in_a_hundred(error: float) -> None:
    found = sum(int((promoted(*both(seed, error, error, 200)) > 0).sum()) for seed in range(COURSES // 200))
    assert found <= ALPHA * COURSES


def test_a_slightly_worse_challenger_is_promoted_less_often_still() -> None:
    found = sum(int((promoted(*both(seed, 0.17, 0.175, 200)) > 0).sum()) for seed in range(COURSES // 200))
    assert found <= ALPHA * COURSES / 4


def test_one_that_is_worse_by_the_margin_passes_a_step_at_most_once_in_a_hundred() -> None:
    found = sum(int((promoted(*both(seed, 0.17, 0.19, 200), 0.02) > 0).sum()) for seed in range(COURSES // 200))
    assert found <= ALPHA * COURSES


def test_a_better_one_is_promoted_and_passes_its_steps_within_the_rows_that_are_waited_for() -> None:
    shadow = promoted(*both(1, 0.24, 0.17, 200))
    step = promoted(*both(2, 0.24, 0.17, 200), 0.02)
    assert (shadow > 0).mean() > 0.99
    assert (step > 0).mean() > 0.99
    assert np.median(step) < np.median(shadow) < 800


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_the_gate_rules_as_the_simulation_does(margin: float) -> None:
    champion, challenger = both(3, 0.22, 0.17, 10)
    expected = promoted(champion, challenger, margin).tolist()
    for course, row in enumerate(expected):
        gate = PromotionGate(ALPHA, ROWS, margin)
        gate.update_all(zip(champion[course].tolist(), challenger[course].tolist(), strict=True))
        assert (gate.rows if gate.ruling is Ruling.PROMOTE else 0) == row


def test_nothing_is_promoted_before_the_rows_that_a_step_takes_at_least() -> None:
    gate = PromotionGate(ALPHA, ROWS, 0.02, at_least=200)
    assert gate.update_all([(1, 0)] * 199) is Ruling.OPEN
    assert gate.update(1, 0) is Ruling.PROMOTE
