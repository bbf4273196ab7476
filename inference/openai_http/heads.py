"""Which headers go out with a request to a model server, and which of an answer's come back. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from inference.backend import BackendRequest

FORWARDED = frozenset({"accept", "traceparent", "tracestate", "user-agent"})
STAINLESS = re.compile(r"x-stainless-[!#$%&'*+.^_`|~0-9a-z-]+")
"""The official SDK's own; a retry says so in one of them."""

KEPT_BACK = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NAMES_KEPT = 256
ALWAYS = {"content-type": "application/json", "accept-encoding": "identity"}


def sent(request: BackendRequest, key: str) -> dict[str, str]:
    """Ours, and of the caller's only those that are known to carry no credential and break no line."""
    headers = {
        name: value
        for name, value in request.headers
        if (name in FORWARDED or STAINLESS.fullmatch(name)) and value.isprintable()
    }
    headers |= ALWAYS
    if request.call_id.isprintable():
        headers["x-request-id"] = request.call_id
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers


def answered(headers: Iterable[tuple[bytes, bytes]], *, is_stream: bool) -> tuple[tuple[str, str], ...]:
    """Without what belongs to one connection alone, and without the length of a stream that we may have shortened."""
    kept = [(shown, value.decode("latin-1")) for name, value in headers if (shown := _shown(name))]
    return tuple([each for each in kept if each[0] != "content-length"] if is_stream else kept)


@lru_cache(NAMES_KEPT)
def _shown(name: bytes) -> str:
    """A header's name as callers see it, "" for what they do not."""
    shown = name.decode("latin-1").lower()
    return "" if shown in KEPT_BACK else shown
