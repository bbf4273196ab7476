"""numpy arrays ↔ ``TensorProto``.

Out: ``tensor_content``, one copy of the array's bytes (strings have a field of their own). In: both encodings, because
TensorFlow Serving answers in ``float_val`` and its kin unless told otherwise. Shapes and lengths come from strangers:
nothing is allocated before they add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.tfserving.schema import message

TensorProto = message("tensorflow.TensorProto")
Array = NDArray[Any]

STRING, BOOL, HALF, BFLOAT16, COMPLEX64, COMPLEX128 = 7, 10, 19, 14, 8, 18
_DTYPES: dict[int, str] = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    COMPLEX64: "<c8",
    9: "<i8",
    BOOL: "?",
    17: "<u2",
    COMPLEX128: "<c16",
    HALF: "<f2",
    22: "<u4",
    23: "<u8",
}
_CODES = {np.dtype(name): code for code, name in _DTYPES.items()}
_VALUES: dict[int, str] = {
    1: "float_val",
    2: "double_val",
    3: "int_val",
    4: "int_val",
    5: "int_val",
    6: "int_val",
    STRING: "string_val",
    COMPLEX64: "scomplex_val",
    9: "int64_val",
    BOOL: "bool_val",
    BFLOAT16: "half_val",
    17: "int_val",
    COMPLEX128: "dcomplex_val",
    HALF: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
NAMES: dict[int, str] = {
    1: "float",
    2: "double",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    STRING: "string",
    COMPLEX64: "complex64",
    9: "int64",
    BOOL: "bool",
    BFLOAT16: "bfloat16",
    17: "uint16",
    COMPLEX128: "complex128",
    HALF: "half",
    22: "uint32",
    23: "uint64",
}
"""TensorFlow's own word for each dtype code, as its error messages write it."""

MAX_ELEMENTS = 64 * 1024 * 1024
"""A proto of twenty bytes may claim any shape ("the last value repeats"); beyond this it is refused unread."""

MAX_RANK = 64  # numpy's
MOST_REPEATED = 65_536


class TensorError(ValueError):
    """A tensor that cannot be written or read; the message says what does not add up."""


def dtype_for(code: int) -> np.dtype[Any]:
    """numpy's dtype for TensorFlow's code; strings are ``object``, bfloat16 widens to float32.

    Raises ``TensorError``.
    """
    if code == STRING:
        return np.dtype(object)
    if code == BFLOAT16:
        return np.dtype("<f4")
    if code not in _DTYPES:
        raise TensorError(f"dtype {code} is not supported")
    return np.dtype(_DTYPES[code])


def size_of(code: int) -> int | None:
    """Bytes of one element in ``tensor_content``; None where there is no such encoding."""
    if code == BFLOAT16:
        return 2
    return np.dtype(_DTYPES[code]).itemsize if code in _DTYPES else None


def code_for(dtype: np.dtype[Any]) -> int:
    """TensorFlow's code for a numpy dtype. Raises ``TensorError``."""
    if dtype.kind in "OSU":
        return STRING
    if dtype.name == "bfloat16":  # TensorFlow's own type, where its runtime answers
        return BFLOAT16
    code = _CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise TensorError(f"numpy dtype {dtype} has no TensorFlow counterpart here")
    return code


def write(array: Array | Sequence[Any] | float, into: Any | None = None) -> Any:
    """``array`` as a ``TensorProto``, in ``into`` when given. Raises ``TensorError``."""
    array = np.asarray(array)
    proto = TensorProto() if into is None else into
    proto.dtype = code_for(array.dtype)
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if proto.dtype == STRING:
        proto.string_val.extend(_as_bytes(value) for value in array.ravel().tolist())
    elif proto.dtype == BFLOAT16:
        proto.tensor_content = array.view(np.uint16).astype("<u2", copy=False).tobytes()
    else:
        proto.tensor_content = array.astype(_DTYPES[proto.dtype], copy=False).tobytes()
    return proto


def read(proto: Any) -> Array:
    """The array in ``proto``; read-only where it shares the message's bytes. Raises ``TensorError``."""
    shape, dtype = _shape(proto), dtype_for(proto.dtype)
    if proto.tensor_content and proto.dtype != STRING:
        return _from_content(proto, shape)
    values = _from_values(proto)
    size = math.prod(shape)
    if len(values) > size:
        raise TensorError(f"{len(values)} values do not fit shape {list(shape)}")
    if len(values) < size:
        # TensorFlow's rule (tensor.proto): values that are missing at the end equal the last one; none at all is zero.
        last = values[-1] if len(values) else (b"" if proto.dtype == STRING else dtype.type(0))
        full = np.empty(size, dtype)
        full[: len(values)], full[len(values) :] = values, last
        values = full
    return values.reshape(shape)


def is_inflated(proto: Any) -> bool:
    """Whether it claims far more values than it has bytes for: thirty may stand for 64 million times the same one."""
    claimed, has_bytes = math.prod(dim.size for dim in proto.tensor_shape.dim), int(proto.ByteSize())
    return bool(claimed > max(has_bytes, MOST_REPEATED))


def read_all(protos: Mapping[str, Any]) -> dict[str, Array]:
    """Raises ``TensorError``, naming the tensor."""
    arrays = {}
    for name, proto in protos.items():
        try:
            arrays[name] = read(proto)
        except TensorError as error:
            raise TensorError(f"tensor parsing error: {name}: {error}") from None
    return arrays


def _shape(proto: Any) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise TensorError("a tensor with values needs a known rank")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise TensorError(f"shape {list(shape)} has a negative dimension")
    if len(shape) > MAX_RANK:
        raise TensorError(f"a tensor of {len(shape)} dimensions; at most {MAX_RANK} are read")
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:  # numpy refuses such sizes beside a 0 as well
        raise TensorError(f"shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return shape


def _from_content(proto: Any, shape: tuple[int, ...]) -> Array:
    stored = np.dtype("<u2") if proto.dtype == BFLOAT16 else dtype_for(proto.dtype)
    expected = math.prod(shape) * stored.itemsize
    if len(proto.tensor_content) != expected:
        raise TensorError(
            f"tensor_content has {len(proto.tensor_content)} bytes, shape {list(shape)} of "
            f"{NAMES[proto.dtype]} needs {expected}"
        )
    array: Array = np.frombuffer(proto.tensor_content, stored)
    return (_widen(array) if proto.dtype == BFLOAT16 else array).reshape(shape)


def _from_values(proto: Any) -> Array:
    """The one-dimensional values of the dtype's own field, in the array's dtype."""
    values, dtype = getattr(proto, _VALUES[proto.dtype]), dtype_for(proto.dtype)
    if proto.dtype == STRING:
        strings = np.empty(len(values), dtype)
        strings[:] = list(values)
        return strings
    if proto.dtype in (COMPLEX64, COMPLEX128):
        if len(values) % 2:
            raise TensorError("complex values come in pairs of real and imaginary part")
        return np.array(values, "<f4" if proto.dtype == COMPLEX64 else "<f8").view(dtype)
    if proto.dtype in (HALF, BFLOAT16):
        bits = np.array(values, np.int64).astype("<u2")
        return bits.view("<f2") if proto.dtype == HALF else _widen(bits)
    if proto.dtype in _DTYPES and dtype.kind in "iu":
        return np.array(values, np.uint64 if dtype.itemsize == 8 and dtype.kind == "u" else np.int64).astype(dtype)  # noqa: PLR2004  bytes
    return np.array(values, dtype)


def _widen(bits: Array) -> Array:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype("<u4") << 16).view("<f4")


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TensorError(f"a string tensor holds bytes or str, not {type(value).__name__}")
