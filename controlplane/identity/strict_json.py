"""Reading what a stranger wrote: base64url and JSON with one meaning only.

RFC 7515 §4 forbids repeated header names and §2 forbids padding; parsers that forgive them let two readers see two
tokens in the same bytes. Raises only ``ValueError``.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


def decode_base64url(text: str) -> bytes:
    """Unpadded and canonical: the encoding of the result is ``text`` again."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("not base64url") from error
    if encode_base64url(data) != text:  # the decoder skips foreign characters and loose last bits
        raise ValueError("not canonical base64url")
    return data


def encode_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object without repeated names, NaN or Infinity."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  callers translate ValueError alone
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated name")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
