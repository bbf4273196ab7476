"""Answers worth giving again when the model cannot: least recently used, bounded in bytes and in age. Pure.

Only answers that the same question always gets: predictions and embeddings, never generated text. The key holds tenant
and policy revision (``BackendRequest.scope``), so that an answer never crosses to somebody who may not have it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from controlplane.resilience.settings import FallbackSettings
from inference.backend import BackendRequest, Usage

DETERMINISTIC = frozenset({"Predict", "Classify", "Regress", "embeddings"})
ENTRY_OVERHEAD_BYTES = 512  # the key, the headers and Python's own share of one entry, roughly


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    headers: tuple[tuple[str, str], ...]
    body: bytes
    served_by: str
    stored_at_s: float
    usage: Usage = field(default_factory=Usage)


def cache_key(request: BackendRequest) -> bytes | None:
    """A SHA-256 over all that decides the answer; None for what must not be remembered."""
    if not request.scope or request.streams or request.operation not in DETERMINISTIC:
        return None
    digest = hashlib.sha256()
    for part in (request.scope, request.target, str(request.version), str(request.label), request.operation):
        digest.update(len(part.encode()).to_bytes(4, "big") + part.encode())
    digest.update(canonical(request.body))
    return digest.digest()


def canonical(body: bytes) -> bytes:
    """JSON without the accidents of spacing and order; anything else as it is."""
    try:
        return msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    except (ValueError, RecursionError):  # no JSON, no text at all, or nested deeper than anybody reads
        return body


class AnswerCache:
    def __init__(self, settings: FallbackSettings) -> None:
        self._settings = settings
        self._entries: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, key: bytes, now_s: float) -> CachedAnswer | None:
        answer = self._entries.get(key)
        if answer is None:
            return None
        if now_s - answer.stored_at_s >= self._settings.cache_ttl_s:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: CachedAnswer) -> None:
        self._remove(key)
        if not self.has_room_for(len(answer.body)):
            return
        self._entries[key] = answer
        self._bytes += cost_of(answer)
        while self._bytes > self._settings.cache_bytes:
            self._remove(next(iter(self._entries)))

    def has_room_for(self, body_bytes: int) -> bool:
        limit = min(self._settings.cache_entry_bytes, self._settings.cache_bytes - ENTRY_OVERHEAD_BYTES)
        return body_bytes <= limit

    def _remove(self, key: bytes) -> None:
        answer = self._entries.pop(key, None)
        if answer is not None:
            self._bytes -= cost_of(answer)


def cost_of(answer: CachedAnswer) -> int:
    return len(answer.body) + ENTRY_OVERHEAD_BYTES
