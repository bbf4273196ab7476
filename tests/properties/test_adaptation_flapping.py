"""Noise around a threshold moves a rule rarely, and ever more rarely; no course of signals breaks its bounds."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.adaptation.engine import NORMAL, Direction, Step, advance
from controlplane.policy.adaptation import AdaptationRule
from tests.unit.adaptation.rules import rule, shipped

WINDOW_S = 10.0
RULES = {each.id: each for each in shipped().rules}


def course(led: AdaptationRule, values: list[float | None], signal: str = "cpu_ratio") -> list[tuple[float, Step]]:
    standing, taken = NORMAL, []
    for number, value in enumerate(values):
        now_s = number * WINDOW_S
        standing, step = advance(led, standing, {} if value is None else {signal: value}, now_s)
        assert 0 <= standing.level <= led.steps
        taken += [(now_s, step)] if step else []
    return taken


@given(st.integers(0, 2**32), st.floats(0.0, 0.1))
@settings(deadline=None)
def test_noise_narrower_than_the_gap_never_flaps(seed: int, spread: float) -> None:
    """Around the upper threshold, and never as low as the lower one: up at most, never back."""
    noise = random.Random(seed)
    values = [0.8 + noise.uniform(-spread, spread) for _ in range(500)]
    steps = [step for _, step in course(rule(steps=2), [max(0.7, value) for value in values])]
    assert all(step.direction is Direction.UP for step in steps)
    assert len(steps) <= 2


@given(st.integers(0, 2**32), st.floats(0.5, 0.99))
@example(0, 0.9)
@settings(deadline=None, max_examples=50)
def test_thousand_windows_of_which_some_are_bad_move_it_a_few_times(seed: int, good: float) -> None:
    """Three normal windows in a row as the way back switched 138 times in a thousand checks at 90 % good ones."""
    noise = random.Random(seed)
    values = [0.1 if noise.random() < good else 0.95 for _ in range(1000)]
    assert len(course(RULES["cpu.throttle"], list(values))) <= 60


def test_nine_good_windows_in_ten_move_it_a_fifth_as_often_as_the_naive_rule() -> None:
    """Ten seeds of a thousand windows: how often it moves, against the 138 of the naive rule."""
    moves = []
    for seed in range(10):
        noise = random.Random(seed)
        values: list[float | None] = [0.1 if noise.random() < 0.9 else 0.95 for _ in range(1000)]
        moves.append(len(course(RULES["cpu.throttle"], values)))
    assert sum(moves) / len(moves) <= 138 / 5


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=300),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 10),
    st.floats(0, 120),
)
@settings(deadline=None)
def test_steps_are_single_and_kept_apart(
    values: list[float | None], steps: int, windows: int, back_windows: int, hold_down_s: float
) -> None:
    led = rule(steps=steps, windows=windows, back_windows=back_windows, hold_down_s=hold_down_s)
    taken = course(led, values)
    level, up_s = 0, float("-inf")
    for (at_s, step), before in zip(taken, [None, *taken], strict=False):
        assert step.before == level
        assert abs(step.after - step.before) == 1
        level = step.after
        since_s = at_s - (before[0] if before else -WINDOW_S * 1000)
        needed = windows if step.direction is Direction.UP else back_windows
        assert since_s >= needed * WINDOW_S - (0 if before else WINDOW_S)
        if before is not None and step.before > 0:
            assert at_s - up_s >= hold_down_s, "a step was left or passed before it was held long enough"
        if step.direction is Direction.UP:
            up_s = at_s


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=200), st.integers(1, 3))
@settings(deadline=None)
def test_lasting_health_always_ends_at_normal(past: list[float | None], steps: int) -> None:
    led = rule(steps=steps, hold_down_s=30.0, hold_down_max_s=300.0)
    taken = course(led, [*past, *[0.1] * (31 + 3 * steps)])
    assert not taken or taken[-1][1].after == 0


@given(st.lists(st.none(), max_size=50), st.integers(0, 30))
@settings(deadline=None)
def test_what_nobody_can_see_never_moves_anything(silence: list[None], hot: int) -> None:
    values: list[float | None] = [*[0.9] * hot, *silence]
    assert course(rule(steps=3), values) == course(rule(steps=3), [0.9] * hot)
