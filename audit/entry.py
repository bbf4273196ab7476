"""What is recorded: canonical bytes, event ids, commitments, and the bodies of intent, outcome and deny. Pure.

Canonical form: JSON as RFC 8785 writes it, for values without floats, integers within ±(2⁵³-1) and object keys inside
the Basic Multilingual Plane. Inside that subset msgspec's sorted encoding is byte-identical and far cheaper; whatever
is outside is refused, never adapted. The stored bytes are what is hashed.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from audit.errors import RecordRefused

VERSION = 1
MAX_BYTES = 65_535  # the entry length of C2SP tlog-tiles is a uint16
MAX_INTEGER = 2**53 - 1  # that every reader of JSON reads alike (RFC 8259 §6)
FIRST_FOUR_BYTE_LEAD = "\U00010000"

_Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_Json: Any = str | _Integer | bool | None
for _ in range(8):  # levels of nesting; msgspec checks a finite type in about a microsecond
    _Json = str | _Integer | bool | None | dict[str, _Json] | list[_Json]


class _Checked(msgspec.Struct):
    body: dict[str, _Json]


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_checked = msgspec.json.Decoder(dict[str, _Json]).decode
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

ENVELOPE = frozenset(
    {"v", "kind", "event_id", "shard", "node", "boot_id", "node_seq", "time_ms", "mono_us"}
    | {"opens", "closes", "closes_index"}
)
"""Fields the ledger itself writes at the top of every record; a body may not bring its own."""


class LedgerReceipt(msgspec.Struct, frozen=True):
    """The promise that a record is durable. ``leaf_hash`` is 32 bytes; ``checkpoint`` a signed tree head over it."""

    event_id: str
    index: int
    leaf_hash: bytes
    checkpoint: str


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """Tree size, 32-byte root hash and the signed checkpoint that says so."""

    size: int
    root: bytes
    checkpoint: str


class Record(msgspec.Struct, frozen=True):
    """A stored record: ``stored`` are the exact hashed bytes, ``body`` what they say."""

    index: int
    leaf_hash: bytes
    stored: bytes
    body: Mapping[str, Any]

    @property
    def event_id(self) -> str:
        return str(self.body["event_id"])

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def time_ms(self) -> int:
        return int(self.body["time_ms"])


def canonical(body: Mapping[str, Any]) -> bytes:
    """The canonical bytes of ``body``.

    Raises:
        RecordRefused: ``not_canonical`` (a float, an integer beyond 2⁵³-1, bytes, a key outside the BMP, a lone
            surrogate, deeper than eight levels) or ``too_large``.
    """
    try:
        msgspec.convert({"body": body}, _Checked)
        encoded = _encode(body)
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
        raise RecordRefused("not_canonical", str(error)) from error
    if len(encoded) > MAX_BYTES:
        raise RecordRefused("too_large", f"{len(encoded)} bytes")
    if not encoded.isascii() and _has_astral_key(body):
        raise RecordRefused("not_canonical", "a key outside the Basic Multilingual Plane")
    return encoded


def from_canonical(stored: bytes) -> dict[str, Any] | None:
    """What ``stored`` says, if it is exactly how that would be written; else None."""
    try:
        body = _decode_checked(stored)
        is_canonical = len(stored) <= MAX_BYTES and _encode(body) == stored
    except (msgspec.DecodeError, UnicodeError):
        return None
    if not is_canonical or (not stored.isascii() and _has_astral_key(body)):
        return None
    return body


def from_json(stored: bytes) -> dict[str, Any]:
    """What ``stored`` says, canonical or not. Raises ``ValueError`` unless it is a JSON object."""
    try:
        return _decode(stored)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _has_astral_key(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(max(key, default="") >= FIRST_FOUR_BYTE_LEAD or _has_astral_key(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_has_astral_key(item) for item in value)


def new_event_id(time_ns: int | None = None) -> str:
    """A UUIDv7 (RFC 9562 §5.7): sorts by time of birth, which is how records are found without an index."""
    milliseconds = (time.time_ns() if time_ns is None else time_ns) // 1_000_000
    bits = int.from_bytes(os.urandom(10), "big")
    head, tail = f"{milliseconds:012x}", f"{0x8000 | bits & 0x3FFF:04x}{bits >> 32 & 0xFFFF_FFFF_FFFF:012x}"
    return f"{head[:8]}-{head[8:]}-7{bits >> 14 & 0xFFF:03x}-{tail[:4]}-{tail[4:]}"


def is_event_id(text: str) -> bool:
    return _UUID7.fullmatch(text) is not None


def event_time_ms(event_id: str) -> int:
    """The millisecond of birth that a UUIDv7 carries."""
    return int(event_id[:8] + event_id[9:13], 16)


class Commitments:
    """HMAC-SHA256 of data under one key: binds a record to a body without holding it, and cannot be guessed without the
    key.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        # Not hmac.digest: it gives up the interpreter lock even for a few bytes; getting it back took 40 us under load.
        self._keyed = hmac.new(key, digestmod="sha256")

    def __call__(self, data: bytes) -> str:
        mac = self._keyed.copy()
        mac.update(data)
        return "hmac-sha256:" + mac.hexdigest()


def outcome_body(status: str, error: str) -> dict[str, Any]:
    """What the ledger itself says of an intent whose caller cannot: ``unknown`` or ``cancelled``, and a stable word."""
    return {"outcome": {"status": status, "error": error}}
