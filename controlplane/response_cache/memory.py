"""Saved answers in this process: least recently used, bounded in bytes and in number. Pure; not for several threads."""

from __future__ import annotations

from collections import OrderedDict

from controlplane.response_cache.answers import Saved


class MemoryStore:
    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._entries: OrderedDict[bytes, Saved] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, key: bytes, now_s: float, ttl_s: int) -> Saved | None:
        """What is saved and still fresh to a call that allows an age of ``ttl_s``; what is too old for anybody goes."""
        saved = self._entries.get(key)
        if saved is None:
            return None
        if not saved.is_fresh(now_s, ttl_s):
            if not saved.is_fresh(now_s, saved.ttl_s):
                self._remove(key)
            return None
        self._entries.move_to_end(key)
        return saved

    def put(self, key: bytes, saved: Saved) -> int:
        """Keep ``saved``; the number of others that had to go for it."""
        self._remove(key)
        if saved.size_bytes > self._max_bytes:
            return 0
        self._entries[key] = saved
        self._bytes += saved.size_bytes
        before = len(self._entries)
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._remove(next(iter(self._entries)))
        return before - len(self._entries)

    def _remove(self, key: bytes) -> None:
        saved = self._entries.pop(key, None)
        if saved is not None:
            self._bytes -= saved.size_bytes
