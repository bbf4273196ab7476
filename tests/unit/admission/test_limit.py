"""The limit follows what a server can take, judged by its latency and by its own complaints."""

from __future__ import annotations

from controlplane.admission.limit import ConcurrencyLimit
from controlplane.admission.settings import AdmissionSettings

SETTINGS = AdmissionSettings(adaptive=True, limit_calls=64, min_limit_calls=4, max_limit_calls=200, window_calls=10)


def windows(
    limit: ConcurrencyLimit, latency_s: float, *, count: int = 1, running: int = 64, start_s: float = 0
) -> None:
    for window in range(count):
        for _ in range(SETTINGS.window_calls):
            limit.saw(latency_s, running, start_s + window * 10.0)


def test_limit_in_use_grows_while_calls_are_as_fast_as_ever() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, count=3)
    assert limit.calls == 64 + 8 + 8 + 8


def test_limit_that_nobody_uses_stays() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, count=50, running=10)
    assert limit.calls == 64


def test_limit_never_leaves_its_bounds() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, count=100, running=200)
    assert limit.calls == 200
    windows(limit, 50.0, count=100, running=200, start_s=1e6)
    assert limit.calls == 4


def test_latency_far_over_the_baseline_shrinks_it() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, running=1)
    windows(limit, 0.3, start_s=10)
    assert limit.calls == 42  # to two thirds: 0.2 s would have been tolerated


def test_latency_within_tolerance_does_not_shrink_it() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, running=1)
    windows(limit, 0.19, start_s=10, running=1)
    assert limit.calls == 64


def test_one_slow_call_in_a_window_says_nothing() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1, running=1)
    limit.saw(60.0, 64, 10.0)
    for _ in range(9):
        limit.saw(0.1, 1, 10.0)
    assert limit.calls >= 64


def test_complaint_shrinks_it_once_a_window() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    for _ in range(30):
        limit.complained(5.0)
    assert limit.calls == 32
    limit.complained(6.0)
    assert limit.calls == 16


def test_baseline_is_the_lowest_median_and_follows_what_lasts_slowly() -> None:
    limit = ConcurrencyLimit(SETTINGS)
    windows(limit, 0.1)
    windows(limit, 0.3, start_s=10)
    assert 0.1 < limit.baseline_s < 0.101
    windows(limit, 0.3, count=3000, start_s=100)
    assert limit.baseline_s > 0.29


def test_fixed_limit_never_moves_but_still_knows_how_long_a_call_takes() -> None:
    limit = ConcurrencyLimit(AdmissionSettings(limit_calls=3, window_calls=10))
    for at_s in range(100):
        limit.saw(0.1 + at_s, 3, at_s)
        limit.complained(at_s)
    assert limit.calls == 3
    assert limit.baseline_s > 0
