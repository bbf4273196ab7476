"""base64url with one meaning only.

RFC 7515 §2 forbids padding; a decoder that forgives it, foreign characters or loose last bits lets two readers see two
tokens in the same bytes. Raises only ``ValueError``.
"""

from __future__ import annotations

import base64
import binascii


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
