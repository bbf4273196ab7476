"""A saved answer: when it is whole and sound, and how it is written down for other processes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane.response_cache.questions import LABELS
from inference.backend import BackendReply, BackendRequest, Usage
from inference.sse import read_event, split_events

OVERHEAD_BYTES = 640  # key, headers and Python's own share of one entry, roughly
PIECE_BYTES = 41  # what one more piece of a stream takes: an object's head and a reference
KEPT_HEADERS = frozenset({"content-type", "content-length"})
OK = 200

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Saved:
    """``pieces`` are the body as it came, so that a stream is given again as one. Times are Unix seconds."""

    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]
    served_by: str
    made_at_s: float
    ttl_s: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    size_bytes: int = field(init=False, compare=False, default=0)

    def __post_init__(self) -> None:
        body = sum(len(piece) + PIECE_BYTES for piece in self.pieces)
        headers = sum(len(name) + len(value) for name, value in self.headers)
        object.__setattr__(self, "size_bytes", body + headers + OVERHEAD_BYTES)

    @classmethod
    def of(cls, reply: BackendReply, pieces: Sequence[bytes], made_at_s: float, ttl_s: int) -> Saved:
        kept = tuple((name.lower(), value) for name, value in reply.headers if name.lower() in KEPT_HEADERS)
        usage = reply.usage
        return cls(
            kept,
            tuple(pieces),
            reply.served_by,
            made_at_s,
            ttl_s,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
        )

    def usage(self) -> Usage:
        """What the answer took when it was made."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_tokens)

    def is_fresh(self, now_s: float, ttl_s: int) -> bool:
        """Whether it may be given now to a call that allows an age of ``ttl_s``. What is from the future is not."""
        return 0 <= now_s - self.made_at_s < min(ttl_s, self.ttl_s)


class _Written(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]
    served_by: str
    made_at_s: float
    ttl_s: int
    usage: tuple[int | None, int | None, int | None]


_decode = msgspec.msgpack.Decoder(_Written).decode


def written(saved: Saved) -> bytes:
    usage = (saved.input_tokens, saved.output_tokens, saved.cached_tokens)
    return _encode(_Written(saved.headers, saved.pieces, saved.served_by, saved.made_at_s, saved.ttl_s, usage))


def read(text: bytes) -> Saved | None:
    """None for what we did not write, or wrote in another release."""
    try:
        found = _decode(text)
    except ValueError:
        return None
    return Saved(found.headers, found.pieces, found.served_by, found.made_at_s, found.ttl_s, *found.usage)


def is_the_models_own(reply: BackendReply, request: BackendRequest, version: str) -> bool:
    """Whether a reply that has begun may be saved: the model asked for answered, in the version that was meant.

    A version that moved meanwhile, a lighter model and an answer that was itself saved are none of these.
    """
    if reply.status != OK or reply.rung != "primary" or reply.age_s is not None:
        return False
    if not version.isdigit():
        return True  # a server without versions names none
    return reply.served_by.partition("@")[0] == f"{request.target}/{version}"


def is_sound(request: BackendRequest, body: bytes) -> bool:
    """Whether a body that came to its end under a 200 is an answer and not the word of a failure."""
    if request.operation not in LABELS:
        return bool(body)
    try:
        documents = [msgspec.json.decode(body)] if not request.streams else list(_events(body))
    except (ValueError, RecursionError):  # no JSON, no text at all, or nested deeper than anybody reads
        return False
    if any(not isinstance(one, dict) or one.get("error") for one in documents):
        return False
    if request.operation != "responses":
        return bool(documents)
    last: Any = documents[-1] if documents else {}
    answer = last.get("response") if request.streams else last
    return isinstance(answer, dict) and answer.get("status") == "completed"


def _events(body: bytes) -> Any:
    for raw in split_events(body):
        event = read_event(raw)
        if event is not None and event.data.strip() != "[DONE]":
            yield msgspec.json.decode(event.data)
