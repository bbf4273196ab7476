"""What the gateway hands to the monitor: predictions as they passed, what a challenger made of copies of them, labels,
and what was seen of a call beside them.

Made on the call path, where making one takes a fraction of a microsecond, and written as msgpack without a second
shape in between: an item is an array whose first value says what it is. Bytes stay bytes; whoever reads them pays for
their decoding.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

MEDIA_TYPE = "application/msgpack"
ITEM_BYTES = 400  # about what an item costs besides its bytes


class Answered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which call, what of and for whom. ``rung`` is the step of the fallback ladder that answered."""

    call_id: str
    at_ms: int
    model: str
    version: int
    principal: str
    rung: str


class Passed(Answered, frozen=True, array_like=True, tag="prediction", gc=False):
    """A successful prediction. ``reply`` is the answer's bytes in the pieces in which it came."""

    latency_us: int
    micro_usd: int
    request: bytes
    reply: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.request) + sum(map(len, self.reply))

    def as_json(self) -> dict[str, Any]:
        return _plain(self) | {
            "request": base64.b64encode(self.request).decode(),
            "reply": base64.b64encode(b"".join(self.reply)).decode(),
        }


class Copied(msgspec.Struct, frozen=True, array_like=True, tag="copy", gc=False):
    """What a version that answers nobody made of a copy of a call: ``reply``, or why there is none in ``failed``."""

    call_id: str
    at_ms: int
    model: str
    version: int
    latency_us: int
    failed: str
    request: bytes
    reply: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.request) + len(self.reply)

    def as_json(self) -> dict[str, Any]:
        encoded = {name: base64.b64encode(getattr(self, name)).decode() for name in ("request", "reply")}
        return _plain(self) | encoded


class Label(msgspec.Struct, frozen=True, array_like=True, tag="label", gc=False):
    """Ground truth for row ``row`` of the prediction with id ``call_id``."""

    call_id: str
    row: int
    label: int

    @property
    def size_bytes(self) -> int:
        return 0

    def as_json(self) -> dict[str, Any]:
        return _plain(self)


class Signals(Answered, frozen=True, array_like=True, tag="signals", gc=False):
    """What was seen of one call, as numbers by name (``signals.py``). What it says nothing about is absent."""

    values: dict[str, float]

    @property
    def size_bytes(self) -> int:
        return 16 * len(self.values)

    def as_json(self) -> dict[str, Any]:
        return _plain(self)


Item = Passed | Copied | Label | Signals


class Page(msgspec.Struct, frozen=True):
    """Items after some sequence number, which grow by one from ``first``; ``lost`` are missing before the first.

    ``boot`` names the gateway's life, in which the numbers hold.
    """

    items: list[Item]
    first: int
    next: int
    lost: int
    boot: str


encode = msgspec.msgpack.Encoder().encode
decode_page = msgspec.msgpack.Decoder(Page).decode
"""Raises ``msgspec.DecodeError``."""


def _plain(item: Item) -> dict[str, Any]:
    kind = {"kind": str(item.__struct_config__.tag)}
    return kind | {name: getattr(item, name) for name in item.__struct_fields__}
