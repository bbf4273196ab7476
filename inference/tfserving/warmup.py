"""Requests that a model server replays before it says that a version is AVAILABLE, in the file where it looks for them.

TF Serving reads ``assets.extra/tf_serving_warmup_requests`` in the version directory: TFRecords of ``PredictionLog``,
at most a thousand. A record is its length, the masked CRC32C of the length, the data, and the masked CRC32C of the data
(tensorflow/core/lib/io/record_writer.h); CRC32C is Castagnoli's polynomial (RFC 3720 B.4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from inference.tfserving.wire import varint

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000
_POLYNOMIAL, _MASK_DELTA = 0x82F63B78, 0xA282EAD8
_PREDICT_LOG, _REQUEST = 6, 1  # field numbers in PredictionLog and PredictLog


class WarmupError(ValueError):
    """The file is not what a model server would read."""


def warmup_file(requests: Sequence[bytes]) -> bytes:
    """The file's content for serialized ``PredictRequest`` messages. Raises ``WarmupError`` when there are too many."""
    if len(requests) > MAX_RECORDS:
        raise WarmupError(f"{len(requests)} requests; a model server replays {MAX_RECORDS} at most")
    logs = (_field(_PREDICT_LOG, _field(_REQUEST, request)) for request in requests)
    return b"".join(map(_record, logs))


def records_in(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file, checked. Raises ``WarmupError``."""
    at = 0
    while at < len(content):
        head = content[at : at + 12]
        if len(head) < 12 or struct.unpack("<I", head[8:])[0] != masked_crc32c(head[:8]):  # noqa: PLR2004  bytes
            raise WarmupError(f"no record begins at byte {at}")
        start = at + 12
        end = start + struct.unpack("<Q", head[:8])[0]
        data, check = content[start:end], content[end : end + 4]
        if len(check) < 4 or struct.unpack("<I", check)[0] != masked_crc32c(data):  # noqa: PLR2004  bytes
            raise WarmupError(f"the record at byte {at} is damaged")
        yield data
        at = end + 4


def masked_crc32c(data: bytes) -> int:
    """A checksum of data that may hold checksums itself (record_writer.h: rotated, and a constant added)."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_row, range(256)))
