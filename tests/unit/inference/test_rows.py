"""The rows in a request are found where they are, also by the short way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from inference.tfserving.predict import encode_predict
from inference.tfserving.rows import PLACES, RowFinder
from inference.tfserving.tensors import write
from inference.tfserving.wire import PredictRequest

DTYPES = ["<f4", "<f8", "<i4", "<i8"]


def request(rows: Any, dtype: str = "<f4", name: str = "x", **more: Any) -> bytes:
    return encode_predict("risk", {name: np.array(rows, dtype)}, **more)


def found(finder: RowFinder, body: bytes) -> Any:
    rows = finder.find(body)
    return None if rows is None else rows.tolist()


@given(arrays(np.float32, (5, 3), elements=st.floats(width=32, allow_nan=False)), st.sampled_from(DTYPES))
def test_the_short_way_finds_what_parsing_finds(rows: NDArray[np.float32], dtype: str) -> None:
    finder = RowFinder("x", 3)
    with np.errstate(invalid="ignore"):
        other, sent = np.arange(15).reshape(5, 3).astype(dtype), rows.astype(dtype)
    finder.find(encode_predict("risk", {"x": other}))
    body = encode_predict("risk", {"x": sent})
    assert found(finder, body) == found(RowFinder("x", 3), body) == sent.tolist()


def test_a_request_of_the_same_length_with_other_words_is_not_taken_for_the_known_one() -> None:
    finder = RowFinder("x", 2)
    assert found(finder, request([[1.5, 2.5]])) == [[1.5, 2.5]]
    assert found(finder, request([[3.5, 4.5]], name="y")) is None
    assert found(finder, request([[3, 4]], "<i4")) == [[3, 4]]
    assert found(finder, request([[1.5, 2.5]])) == [[1.5, 2.5]]


def test_rows_written_value_by_value_are_found_too() -> None:
    message, finder = PredictRequest(), RowFinder("x", 2)
    tensor = message.inputs["x"]
    write(np.zeros((2, 2), np.float32), tensor)
    tensor.ClearField("tensor_content")
    tensor.float_val.extend([1, 2, 3, 4])
    for _ in range(2):
        assert found(finder, message.SerializeToString()) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("content", [[[0.0, 0.0]], [[1e-45, 0.0]]])
def test_values_that_look_like_their_frame_are_parsed_each_time(content: list[list[float]]) -> None:
    finder = RowFinder("x", 2)
    for rows in (content, [[1.0, 2.0]], content):
        assert found(finder, request(rows)) == np.array(rows, np.float32).tolist()


def test_a_single_row_may_be_a_vector() -> None:
    assert found(RowFinder("x", 2), request([1.0, 2.0])) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff",
        request([[1.0, 2.0, 3.0]]),
        request([[1.0, 2.0]], name="y"),
        encode_predict("risk", {"x": np.array([["a", "b"]])}),
        request([[1.0, 2.0]])[:-3],
    ],
)
def test_what_has_no_such_rows_has_none(body: bytes) -> None:
    assert RowFinder("x", 2).find(body) is None


@pytest.mark.parametrize(("rows", "seen"), [(1_000, 1_000), (10_000_000, 0)])
def test_one_value_that_stands_for_millions_is_not_written_out(rows: int, seen: int) -> None:
    message = PredictRequest()
    tensor = message.inputs["x"]
    tensor.dtype = 1
    for size in (rows, 2):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.append(1.0)
    assert len(found(RowFinder("x", 2), message.SerializeToString()) or ()) == seen


def test_places_are_bounded() -> None:
    finder = RowFinder("x", 1)
    for rows in range(1, 3 * PLACES):
        finder.find(request(np.arange(1, rows + 1).reshape(-1, 1)))
    assert len(finder._places) == PLACES
