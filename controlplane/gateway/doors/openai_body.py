"""What policy reads of an OpenAI request body, and proof that the model server reads the same.

We decide on our reading and forward the bytes. A body that another parser could read differently is refused: a field
twice (some take the first, we the last), two fields that differ only in case (Go's parser takes either), bytes that are
not UTF-8. Only the top level is looked at: nothing below it is decided upon.
"""

from __future__ import annotations

import json
from typing import Annotated

import msgspec

from controlplane.gateway.problems import BadRequest

MODEL_CHARS = 512  # a name goes into the ledger and into logs; the longest name on any hub is below 100
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
"""Some servers read 0 or -1 as "as many as you like", which no rule about a number of tokens would stop."""


class ChatFields(msgspec.Struct):
    """What policy and routing read of a request; everything else passes untouched."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL_CHARS)]
    stream: bool | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    messages: list[msgspec.Raw] = []
    user: str | None = None

    @property
    def cap(self) -> int | None:
        """The larger one where there are two: servers differ in which they take."""
        return max((n for n in (self.max_tokens, self.max_completion_tokens) if n is not None), default=None)


_read_chat = msgspec.json.Decoder(ChatFields).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_fields(body: bytes) -> ChatFields:
    """Raises ``BadRequest``: ``invalid_body`` or ``ambiguous_body``."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = _read_chat(body)
        keys = _keys(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRequest("invalid_body", f"not a valid request: {error}") from None
    except RecursionError:
        raise BadRequest("invalid_body", "not a valid request: nested too deeply") from None
    if len({key.casefold() for key in keys}) != len(keys):
        raise BadRequest("ambiguous_body", "a field stands twice in the request")
    return fields


def _keys(body: bytes) -> list[str]:
    """The names of the fields as often as they stand there.

    Written again from what was read, a body comes out shorter when a name stood twice, or when it was spaced or escaped
    in ways that mean nothing. One that comes out as long as it was has every name once, and most clients write such.
    """
    fields = _read_fields(body)
    if len(msgspec.json.encode(fields)) == len(body):
        return list(fields)
    return [name for name, _ in json.loads(body, object_pairs_hook=list, parse_int=str)]
