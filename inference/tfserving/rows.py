"""The rows inside a serialized ``PredictRequest``, found without parsing it twice.

Calls of one client to one model differ in the values alone: what stands before and after them is the same, byte for
byte, as long as their number is. So the places where values were found once are remembered by the length of the
request, and hold for every request that begins and ends with the same bytes: protobuf is read from left to right, and
the values are one opaque field. Everything else is parsed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from inference.tfserving.tensors import Array, TensorError, dtype_for, is_inflated, read
from inference.tfserving.wire import PredictRequest, WireError, parse

PLACES = 64
LONGEST_FRAME = 4096  # bytes around the values that are worth comparing
ROWS_AND_COLUMNS = 2


class Place(NamedTuple):
    before: bytes
    after: bytes
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]


class RowFinder:
    """Finds input ``name`` of ``columns`` columns. Bounded memory; one for each model version that is asked about."""

    __slots__ = ("_columns", "_name", "_places")

    def __init__(self, name: str, columns: int) -> None:
        self._name, self._columns = name, columns
        self._places: OrderedDict[int, Place] = OrderedDict()

    def find(self, body: bytes) -> Array | None:
        """(n, columns) numbers that share the bytes of ``body``; None where it has no such rows.

        A single row may come as a vector. Never raises: what is wrong with a request is for its server to say.
        """
        place = self._places.get(len(body))
        if place is not None and body.startswith(place.before) and body.endswith(place.after):
            return np.ndarray(place.shape, place.dtype, body, place.start)
        try:
            return self._parsed(body)
        except (WireError, TensorError, ValueError):
            return None

    def _parsed(self, body: bytes) -> Array | None:
        inputs = parse(PredictRequest, body).inputs
        if self._name not in inputs:
            return None
        tensor = inputs[self._name]
        if is_inflated(tensor):
            return None
        array = read(tensor)
        if array.dtype.kind not in "fiu" or not array.ndim or array.shape[-1] != self._columns:
            return None
        rows = array.reshape(-1, self._columns)
        if tensor.tensor_content and array.ndim <= ROWS_AND_COLUMNS and dtype_for(tensor.dtype) == array.dtype:
            self._remember(body, tensor.tensor_content, rows)
        return rows

    def _remember(self, body: bytes, content: bytes, rows: Array) -> None:
        start = body.find(content)
        if start < 0 or body.find(content, start + 1) >= 0 or rows.nbytes != len(content):
            return  # a request that says the same twice is parsed each time
        before, after = body[:start], body[start + len(content) :]
        if len(before) + len(after) > LONGEST_FRAME:
            return
        self._places[len(body)] = Place(before, after, start, rows.dtype, (rows.shape[0], rows.shape[1]))
        if len(self._places) > PLACES:
            self._places.popitem(last=False)
