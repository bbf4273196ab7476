"""The limit at its edges: the last call that passes, the first that does not, the instant when one may again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.limits import Rate, RateLimit


def test_limit_is_reached_exactly() -> None:
    limit, rate = RateLimit(), Rate(5, 60)
    assert [limit.take("k", rate, 0.0) for _ in range(5)] == [0.0] * 5
    assert limit.take("k", rate, 0.0) == 60.0
    assert limit.take("k", rate, 59.5) == 0.5
    assert limit.take("k", rate, 60.0) == 0.0


def test_window_slides_rather_than_starts_over() -> None:
    """A counter that is reset each minute would let eight pass around the minute's end."""
    limit, rate = RateLimit(), Rate(4, 60)
    assert [limit.take("k", rate, t) for t in (50.0, 52.0, 54.0, 56.0)] == [0.0] * 4
    assert limit.take("k", rate, 61.0) == 49.0
    assert limit.take("k", rate, 110.0) == 0.0
    assert limit.take("k", rate, 110.0) == 2.0


def test_refused_call_is_not_counted() -> None:
    limit, rate = RateLimit(), Rate(1, 10)
    limit.take("k", rate, 0.0)
    for second in range(1, 10):
        assert limit.take("k", rate, float(second)) > 0
    assert limit.take("k", rate, 10.0) == 0.0


def test_zero_means_never() -> None:
    limit, rate = RateLimit(), Rate(0, 10)
    assert limit.take("k", rate, 0.0) == 10
    assert limit.take("k", rate, 1_000.0) == 10


def test_one_callers_calls_are_not_anothers() -> None:
    limit, rate = RateLimit(), Rate(1, 10)
    assert limit.take(("rule", "a"), rate, 0.0) == 0.0
    assert limit.take(("rule", "b"), rate, 0.0) == 0.0
    assert limit.take(("other", "a"), rate, 0.0) == 0.0
    assert limit.take(("rule", "a"), rate, 0.0) > 0


def test_counters_are_bounded_and_newcomers_are_refused() -> None:
    """Forgetting somebody's counter to make room would lift their limit."""
    limit, rate = RateLimit(max_counters=2), Rate(1, 10)
    assert limit.take("a", rate, 0.0) == 0.0
    assert limit.take("b", rate, 0.0) == 0.0
    assert limit.take("c", rate, 0.0) == 10
    assert limit.take("a", rate, 5.0) == 5.0
    assert limit.take("c", rate, 10.0) == 0.0  # both others have run out
    assert len(limit) == 1


@pytest.mark.parametrize(("most", "per_s"), [(-1, 60), (1, 0), (1, -1), (1, float("inf")), (1, float("nan"))])
def test_impossible_rate_is_refused(most: int, per_s: float) -> None:
    with pytest.raises(ValueError):
        Rate(most, per_s)


@given(
    gaps=st.lists(st.floats(0, 4, allow_nan=False), max_size=300),
    most=st.integers(1, 12),
    per_s=st.floats(0.5, 30, allow_nan=False),
)
def test_no_window_ever_holds_more_than_its_limit(gaps: list[float], most: int, per_s: float) -> None:
    limit, rate, now_s, granted = RateLimit(), Rate(most, per_s), 0.0, []
    for gap in gaps:
        now_s += gap
        if limit.take("k", rate, now_s) == 0.0:
            granted.append(now_s)
    for first, over in zip(granted, granted[most:], strict=False):
        assert first + per_s <= over


@given(gaps=st.lists(st.floats(0, 0.2, allow_nan=False), min_size=1, max_size=300))
def test_memory_of_one_counter_does_not_grow_with_its_limit(gaps: list[float]) -> None:
    limit, rate, now_s = RateLimit(), Rate(1_000_000, 6), 0.0
    for gap in gaps:
        now_s += gap
        limit.take("k", rate, now_s)
    assert len(limit._windows["k"].entries) <= 61
