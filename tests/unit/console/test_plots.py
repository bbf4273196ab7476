"""Where lines and bars go."""

from __future__ import annotations

import math

import pytest

from controlplane.console.plots import (
    HEIGHT,
    OTHERS,
    SERIES,
    TOP,
    WIDTH,
    day_bars,
    evidence_lines,
    share_of_way,
    state_stretches,
)
from controlplane.drift.shelf import Point


def points(*evidence: float, threshold: float = 1e4, crossings: tuple[int, ...] = (), version: int = 1) -> list[Point]:
    crossings = crossings or (0,) * len(evidence)
    return [
        Point(
            version=version, at_ms=1_000 * n, detector="error", evidence=value, threshold=threshold, arl_rows=1e5,
            tolerated=0.1, crossings=crossed,
        )
        for n, (value, crossed) in enumerate(zip(evidence, crossings, strict=True))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("evidence", "threshold", "share"),
    [(0, 1e4, 0), (1e4, 1e4, 1), (99, 1e4 - 1, 0.5), (0.15, 0.3, 0.5), (0.3, 0.3, 1), (-1, 0.3, 0)],
)
def test_evidence_goes_by_its_logarithm_and_a_score_by_itself(evidence: float, threshold: float, share: float) -> None:
    assert share_of_way(evidence, threshold) == pytest.approx(share, abs=1e-9)


def test_a_line_meets_the_threshold_where_its_verdict_falls() -> None:
    (line,) = evidence_lines(points(0, 1e4, 0, crossings=(0, 0, 1)))
    assert line.path == f"M0.0 {HEIGHT} L{WIDTH / 2} {TOP} L{WIDTH} {HEIGHT}"
    assert line.verdicts == (WIDTH,)
    assert line.crossings == 1


def test_evidence_beyond_all_bounds_stays_in_the_box() -> None:
    (line,) = evidence_lines(points(0, 1e300, 3.0))
    heights = [float(pair.split()[1]) for pair in line.path[1:].split(" L")]
    assert all(0 <= y <= HEIGHT for y in heights)
    assert all(math.isfinite(y) for y in heights)


def test_an_older_version_is_not_drawn_and_many_points_are_thinned_to_the_newest() -> None:
    old, new = points(1, 2), points(*range(5_000), version=2)
    (line,) = evidence_lines([*old, *new])
    assert line.path.count("L") <= 301
    assert line.evidence == 4_999
    assert evidence_lines([]) == []


def test_bars_stack_to_their_day_and_small_names_are_others() -> None:
    names = {f"m{n}": 10 - n for n in range(SERIES + 2)}
    plot = day_bars({"2026-11-20": names, "2026-11-21": {}}, height=100.0)
    assert plot.legend[-1] == (SERIES - 1, OTHERS)
    assert len(plot.legend) == SERIES
    top = plot.ticks[-1][1]
    assert sum(bar.height for bar in plot.bars) == pytest.approx(100 * sum(names.values()) / top, abs=0.5)
    assert top >= sum(names.values())
    assert max(bar.y for bar in plot.bars) <= 100.1
    assert day_bars({}).bars == ()


def test_a_bar_says_what_it_is_worth_in_dollars() -> None:
    (bar,) = day_bars({"2026-11-21": {"tiny": 2_612_345}}).bars
    assert bar.title == "2026-11-21 tiny: $2.61"


def test_states_last_until_the_next_one() -> None:
    found = state_stretches([(0, "HEALTHY"), (100, "HEALTHY"), (500, "WARN")], now_ms=1_000)
    assert [(each.state, each.x, each.width) for each in found] == [("HEALTHY", 0, 300), ("WARN", 300, 300)]
    assert state_stretches([], 5) == []
