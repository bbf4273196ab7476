"""Arrays and TensorProto say the same thing, in both of the wire's encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference.tfserving.tensors import TensorError, TensorProto, dtype_for, read, read_all, write

NUMERIC = [1, 2, 3, 4, 5, 6, 8, 9, 10, 17, 18, 19, 22, 23]
VALUE_FIELDS = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 9: "int64_val",
    10: "bool_val", 17: "int_val", 22: "uint32_val", 23: "uint64_val",
}  # fmt: skip


def _extremes(code: int) -> Any:
    dtype = dtype_for(code)
    if dtype.kind in "iu":
        return np.array([[np.iinfo(dtype).min, 1], [2, np.iinfo(dtype).max]], dtype)
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    values = np.array([[np.inf, -0.0], [0.1, np.nan]], dtype)
    return values + 1j * np.array([[1, 2], [3, 4]], dtype) if dtype.kind == "c" else values


def _shaped(code: int, *sizes: int) -> Any:
    proto = TensorProto(dtype=code)
    for size in sizes:
        proto.tensor_shape.dim.add().size = size
    return proto


@pytest.mark.parametrize("code", NUMERIC)
def test_every_numeric_dtype_survives_the_wire(code: int) -> None:
    array = _extremes(code)
    back = read(TensorProto.FromString(write(array).SerializeToString()))
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("code", VALUE_FIELDS)
def test_every_numeric_dtype_is_read_from_its_value_field(code: int) -> None:
    array = _extremes(code)
    proto = _shaped(code, 2, 2)
    getattr(proto, VALUE_FIELDS[code]).extend(array.ravel().tolist())
    np.testing.assert_array_equal(read(proto), array)
    assert read(proto).dtype == array.dtype


def test_half_values_travel_as_bits() -> None:
    proto = _shaped(19, 2)
    proto.half_val.extend(np.array([0.5, -2], np.float16).view(np.uint16).tolist())
    assert read(proto).tolist() == [0.5, -2]


@pytest.mark.parametrize("field", ["half_val", "tensor_content"])
def test_bfloat16_widens_to_float32(field: str) -> None:
    bits = np.array([1.5, -3], np.float32).view(np.uint32) >> 16
    proto = _shaped(14, 2)
    if field == "half_val":
        proto.half_val.extend(bits.tolist())
    else:
        proto.tensor_content = bits.astype("<u2").tobytes()
    assert read(proto).tolist() == [1.5, -3]
    assert read(proto).dtype == np.float32


@pytest.mark.parametrize(("code", "field"), [(8, "scomplex_val"), (18, "dcomplex_val")])
def test_complex_values_come_in_pairs(code: int, field: str) -> None:
    proto = _shaped(code, 2)
    getattr(proto, field).extend([1, 2, 3, 4])
    assert read(proto).tolist() == [1 + 2j, 3 + 4j]
    getattr(proto, field).append(5)
    with pytest.raises(TensorError, match="pairs"):
        read(proto)


@pytest.mark.parametrize("array", [np.float32(3.5), np.zeros((0, 3), np.float32), np.array(["ä", b"\xff"], object)])
def test_scalars_empty_tensors_and_strings_survive(array: Any) -> None:
    back = read(write(array))
    assert back.shape == np.shape(array)
    expected = [value.encode() if isinstance(value, str) else value for value in np.ravel(array).tolist()]
    assert back.ravel().tolist() == expected


def test_the_last_value_repeats() -> None:
    proto = _shaped(1, 2, 2)
    proto.float_val.extend([1, 7])
    assert read(proto).tolist() == [[1, 7], [7, 7]]


def test_no_value_at_all_means_zeros_or_empty_strings() -> None:
    assert read(_shaped(3, 2)).tolist() == [0, 0]
    assert read(_shaped(7, 2)).tolist() == [b"", b""]


def test_big_endian_and_strided_arrays_are_written_little_endian_in_row_order() -> None:
    array = np.arange(4, dtype=">i4").reshape(2, 2).T
    assert read(write(array)).tolist() == [[0, 2], [1, 3]]


def test_too_many_values_are_refused() -> None:
    proto = _shaped(1, 1)
    proto.float_val.extend([1, 2])
    with pytest.raises(TensorError, match="2 values do not fit"):
        read(proto)


def test_content_of_the_wrong_length_is_refused_with_the_length_it_needs() -> None:
    proto = _shaped(1, 3)
    proto.tensor_content = bytes(8)
    with pytest.raises(TensorError, match=r"8 bytes, shape \[3\] of float needs 12"):
        read(proto)


@pytest.mark.parametrize("sizes", [(-1, 2), (1 << 40,), (1 << 20, 1 << 20), (0, 1 << 62, 1 << 62)])
def test_a_shape_from_a_stranger_allocates_nothing(sizes: tuple[int, ...]) -> None:
    proto = _shaped(1, *sizes)
    proto.float_val.append(1)
    with pytest.raises(TensorError, match=r"negative|more than"):
        read(proto)


def test_more_dimensions_than_an_array_can_have_are_refused() -> None:
    assert read(_shaped(1, *[1] * 64)).ndim == 64
    with pytest.raises(TensorError, match="65 dimensions"):
        read(_shaped(1, *[1] * 65))


def test_unknown_rank_and_foreign_dtypes_are_refused() -> None:
    unknown = TensorProto(dtype=1)
    unknown.tensor_shape.unknown_rank = True
    for proto in (unknown, _shaped(0), _shaped(21), _shaped(101)):
        with pytest.raises(TensorError):
            read(proto)
    with pytest.raises(TensorError, match="datetime64"):
        write(np.array(["2026-01-01"], "datetime64[D]"))
    with pytest.raises(TensorError, match="bytes or str, not dict"):
        write(np.array([{}], object))


def test_the_broken_tensor_is_named() -> None:
    with pytest.raises(TensorError, match="tensor parsing error: age"):
        read_all({"x": _shaped(1, 1), "age": _shaped(1, -1)})
