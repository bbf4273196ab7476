"""Ranges learnt from rows, and rows held against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from controlplane.drift.guard import RowGuard
from controlplane.drift.reference import (
    Bounds,
    ColumnReference,
    InvalidReference,
    RowReference,
    read_reference,
    reference_of,
    write_reference,
)

NAMES = ("age", "flag", "income")


def healthy(rows: int = 5_000, seed: int = 1) -> NDArray[np.float64]:
    chance = np.random.default_rng(seed)
    return np.stack((chance.normal(40, 10, rows), chance.random(rows) < 0.03, chance.lognormal(10, 1, rows)), axis=1)


def guard_of(rows: NDArray[np.float64], declared: Bounds | None = None, dtype: str = "<f8") -> RowGuard:
    return RowGuard.of(reference_of(NAMES, rows, tensor="x", declared=declared), np.dtype(dtype))


def test_new_rows_of_the_same_kind_hardly_ever_violate() -> None:
    assert guard_of(healthy(20_000)).violating(healthy(100_000, seed=2)) <= 300


def test_thirty_columns_together_do_not_refuse_six_rows_in_a_hundred() -> None:
    """What the quantiles alone would do."""
    chance = np.random.default_rng(3)
    reference = reference_of([f"c{n}" for n in range(30)], chance.normal(size=(20_000, 30)), tensor="x")
    violating = RowGuard.of(reference, np.dtype("<f8")).violating(chance.normal(size=(50_000, 30)))
    assert violating / 50_000 <= 0.003


@pytest.mark.parametrize("wrong", [[400, 0, 2e4], [40, 2, 2e4], [40, 0, -1e6], [40, 0, 1e9], [np.inf, 0, 2e4]])
def test_a_value_that_no_such_row_has_violates(wrong: list[float]) -> None:
    guard, right = guard_of(healthy()), [40, 0, 2e4]
    rows = np.array([right, wrong, right], np.float64)
    assert guard.violating(rows) == 1
    assert guard.broken(rows).tolist() == [False, True, False]


def test_one_wild_value_in_the_reference_does_not_blind_a_column() -> None:
    rows = healthy()
    rows[7] = [1e9, 5, 1e12]
    assert guard_of(rows).broken(np.array([[1e8, 0, 2e4], [40, 5, 2e4], [40, 0, 1e11]])).all()


def test_a_value_may_be_missing_only_where_some_were() -> None:
    rows = healthy()
    rows[::10, 2] = np.nan
    seen = guard_of(rows).broken(np.array([[40, 0, np.nan], [np.nan, 0, 2e4]]))
    assert seen.tolist() == [False, True]


def test_what_was_declared_beats_what_was_seen() -> None:
    guard = guard_of(healthy(), {"age": (0.0, 200.0), "income": (None, 3e4)})
    assert guard.broken(np.array([[199, 0, 2e4], [201, 0, 2e4], [40, 0, -1e9], [40, 0, 3.1e4]])).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_a_column_that_was_never_there_takes_anything() -> None:
    rows = healthy()
    rows[:, 0] = np.nan
    assert guard_of(rows).violating(np.array([[1e30, 0, 2e4], [np.nan, 0, 2e4]])) == 0


@given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(0, 2**32))
def test_counting_agrees_with_naming_whatever_calls_came_before(sizes: list[int], seed: int) -> None:
    guard = RowGuard(np.array([-1.0, 0.0]), np.array([1.0, 1.0]), np.array([True, False]))
    chance = np.random.default_rng(seed)
    for size in sizes:
        rows = np.where(chance.random((size, 2)) < 0.02, np.nan, chance.normal(0.5, 0.3, (size, 2)))
        assert guard.violating(rows) == guard.broken(rows).sum()


VALUES = [-0.0, 0.0, 1.0, -1.0, 1.5, 2.0, -3.0, np.nan, np.inf, -np.inf, 1e30, -1e30]


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
@pytest.mark.parametrize("may_miss", [None, [True, False, True], [True, True, True]])
@given(st.lists(st.lists(st.sampled_from(VALUES), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_short_look_says_what_a_long_look_says(
    dtype: str, may_miss: list[bool] | None, values: list[list[float]]
) -> None:
    low, high = np.array([0.0, -1.0, -np.inf], dtype), np.array([1.0, np.inf, 1.0], dtype)
    guard = RowGuard(low, high, None if may_miss is None else np.array(may_miss))
    with np.errstate(over="ignore"):
        rows = np.array(values, dtype)
    missing = np.isnan(rows) & (False if may_miss is None else np.array(may_miss))
    sound = ((rows >= low) & (rows <= high)) | missing
    assert guard.violating(rows) == guard.broken(rows).sum() == (~sound.all(axis=1)).sum()


def test_no_rows_violate_nothing() -> None:
    assert guard_of(healthy()).violating(np.empty((0, 3))) == 0


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i4"])
def test_bounds_hold_in_the_numbers_that_callers_send(dtype: str) -> None:
    reference = RowReference((ColumnReference("a", 0.1, 9.7),), "x", 100)
    guard = RowGuard.of(reference, np.dtype(dtype))
    assert guard.broken(np.array([[1], [9], [10], [-1]], dtype)).tolist() == [False, False, True, True]


@given(arrays(np.float64, (60, 2), elements=st.floats(-1e6, 1e6, width=32)))
def test_few_of_the_reference_rows_violate_even_as_float32(rows: NDArray[np.float64]) -> None:
    """One in a thousand, and one of fewer; where a column has few values, those that it had once may as well."""
    guard = RowGuard.of(reference_of(("a", "b"), rows, tensor="x"), np.dtype("<f4"))
    many_valued = [len(np.unique(column)) > 20 for column in rows.T]
    if all(many_valued):
        assert guard.violating(rows.astype("<f4")) <= 1


def test_a_reference_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    reference = reference_of(NAMES, healthy(), tensor="x")
    write_reference(tmp_path / "references/1.json", reference)
    assert read_reference((tmp_path / "references/1.json").read_bytes()) == reference
    assert [each.name for each in (tmp_path / "references").iterdir()] == ["1.json"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"columns": [], "input": "x", "rows": 1}',
        b'{"columns": [{"name": "a", "low": 2, "high": 1}], "input": "x", "rows": 1}',
        b'{"columns": [{"name": "a", "low": "0", "high": 1}], "input": "x", "rows": 1}',
        b'{"columns": [{"name": "a", "low": 0, "high": 1}], "input": "x", "rows": 1, "format": "other/1"}',
        b'{"columns": [{"name": "a", "low": 0, "high": 1, "hihg": 1}], "input": "x", "rows": 1}',
        b'{"columns": [{"name": "\xff", "low": 0, "high": 1}], "input": "x", "rows": 1}',
        b'{"columns": ' + b"[" * 100_000,
        b" " * (5 * 1024 * 1024),
    ],
)
def test_what_is_no_reference_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidReference):
        read_reference(raw)


def test_rows_that_do_not_fit_their_names_make_no_reference() -> None:
    for rows in (np.empty((0, 3)), np.zeros((4, 2)), np.zeros(3)):
        with pytest.raises(ValueError, match="columns"):
            reference_of(NAMES, rows, tensor="x")
