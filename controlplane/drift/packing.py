"""Names with plain values and numpy arrays to bytes and back, exactly: no pickle, nothing that runs when it is read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = {"<f8", "<i8", "<i4"}
LONGEST_BYTES = 1 << 28


class Unpackable(ValueError):
    """Bytes that ``pack`` did not make."""


def pack(plain: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """``plain`` as JSON has it, and ``arrays`` of float64, int64 or int32."""
    held = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in held.items()}
    head = json.dumps({"plain": plain, "arrays": shapes}, sort_keys=True).encode()
    body = b"".join(array.tobytes() for array in held.values())
    return zlib.compress(b"%d\n" % len(head) + head + body, 6)


def fingerprint(packed: bytes) -> str:
    """SHA-256 of what was packed, however well it was compressed."""
    return hashlib.sha256(_inflated(packed)).hexdigest()


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was packed.

    Raises:
        Unpackable: these are other bytes.
    """
    try:
        content = _inflated(packed)
        line, rest = content.split(b"\n", 1)
        head = json.loads(rest[: int(line)])
        return head["plain"], _arrays(rest[int(line) :], head["arrays"])
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise Unpackable(str(error)) from error


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(packed, LONGEST_BYTES)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("too long, or cut short")
    return content


def _arrays(body: bytes, shapes: Mapping[str, Any]) -> dict[str, Any]:
    arrays, offset = {}, 0
    for name, (kind, shape) in shapes.items():
        if kind not in KINDS:
            raise ValueError(f"arrays of {kind} are not packed")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body, kind, count, offset).reshape(shape).copy()
        offset += arrays[name].nbytes
    if offset != len(body):
        raise ValueError("arrays and bytes differ")
    return arrays
