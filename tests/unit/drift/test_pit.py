from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.pit import CUTS, UNIT, Column, Pit

RANDOM = np.random.default_rng(0)


def ranks(column: Column, values: list[float]) -> list[float]:
    return (column.ranks[column.cells(np.array(values))] / UNIT).tolist()


def test_a_rank_is_the_share_below_and_half_of_the_ties() -> None:
    column = Column.of(np.array([1.0, 2.0, 2.0, 4.0]))
    assert ranks(column, [0, 1, 1.5, 2, 3, 4, 5]) == pytest.approx([0, 0.125, 0.25, 0.5, 0.75, 0.875, 1], abs=1e-4)


@pytest.mark.parametrize(
    "values",
    [RANDOM.normal(size=5_000), RANDOM.lognormal(size=5_000), RANDOM.poisson(2, 5_000), np.full(5_000, 3.0)],
)
def test_the_reference_itself_ranks_in_the_middle_on_average(values: NDArray[np.float64]) -> None:
    column = Column.of(values.astype(np.float64))
    assert column.ranks[column.cells(values.astype(np.float64))].mean() / UNIT == pytest.approx(0.5, abs=2e-3)


def test_the_wildest_values_rank_from_nought_to_one_and_a_missing_one_in_the_middle() -> None:
    column = Column.of(RANDOM.normal(size=1_000))
    assert ranks(column, [-np.inf, -1e300, 1e300, np.inf, np.nan]) == [0, 0, 1, 1, 0.5]
    missing = column.spreads[column.cells(np.array([np.nan]))][0]
    assert missing / UNIT == pytest.approx(0.5, abs=1e-2)


def test_a_column_is_kept_in_so_many_cuts_at_most_and_ranks_hardly_notice() -> None:
    values = RANDOM.normal(size=50_000)
    column = Column.of(values)
    assert len(column.cuts) <= CUTS
    exact = np.searchsorted(np.sort(values), values) / len(values)
    assert np.abs(column.ranks[column.cells(values)] / UNIT - exact).max() < 2 / CUTS


def test_a_higher_value_never_ranks_lower() -> None:
    column = Column.of(np.round(RANDOM.normal(size=3_000), 1))
    assert (np.diff(ranks(column, np.sort(RANDOM.normal(0, 2, 2_000)).tolist())) >= 0).all()


def test_a_mean_rank_is_told_in_the_columns_own_unit() -> None:
    normal = Column.of(RANDOM.normal(100, 10, 50_000))
    moved = RANDOM.normal(110, 10, 50_000)
    mean = float(normal.ranks[normal.cells(moved)].mean()) / UNIT
    assert normal.centre(0.5) == pytest.approx(100, abs=0.5)
    assert normal.centre(mean) == pytest.approx(110, abs=1)
    rare = Column.of((RANDOM.random(50_000) < 0.03).astype(float))
    often = (RANDOM.random(50_000) < 0.13).astype(float)
    assert rare.centre(0.5) == pytest.approx(0.03, abs=0.005)
    assert rare.centre(float(rare.ranks[rare.cells(often)].mean()) / UNIT) == pytest.approx(0.13, abs=0.01)


def test_a_column_without_a_single_value_is_still_a_column() -> None:
    pit = Pit.of(np.full((100, 2), np.nan))
    scores = pit.scores(np.array([[np.nan, 1.0]]))
    assert scores.shape == (4, 1)
    assert np.isnan(pit.columns[0].centre(0.5))
