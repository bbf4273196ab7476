"""Saved answers in Redis, for every gateway that knows the secret.

What is protected: names are HMACs and values are sealed (AES-256-GCM) with keys made from the secret, so whoever reads
Redis learns how many answers there are, how long each is and when it ends, and nothing else. A value is bound to its
name: one that was put under another name, or came back for another question, does not open. Whoever may write can
delete, and can bring back an old answer to the same question; its age is inside and still counts.

Fails open: whatever Redis does or does not do within the deadline, the worst is a miss.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis.asyncio import Redis
from redis.exceptions import RedisError

from controlplane.response_cache.answers import Saved, read, written

PREFIX = b"controlplane:answer:"
NONCE_BYTES = 12
log = logging.getLogger(__name__)


@dataclass(slots=True)
class RedisStore:
    """``failed`` hears a stable word for each time that Redis was no use. Owns nothing of ``client``."""

    client: Redis
    secret: bytes
    deadline_s: float
    pause_s: float
    monotonic: Callable[[], float]
    failed: Callable[[str], None] = lambda _reason: None
    _cipher: AESGCM = field(init=False)
    _paused_until_s: float = float("-inf")

    def __post_init__(self) -> None:
        self._cipher = AESGCM(hmac.digest(self.secret, b"seal", "sha256"))

    async def get(self, key: bytes) -> Saved | None:
        if self._is_paused():
            return None
        name = self._name(key)
        try:
            async with asyncio.timeout(self.deadline_s):
                sealed = await self.client.get(name)
        except (RedisError, OSError, TimeoutError) as error:
            self._trouble(error)
            return None
        return None if sealed is None else self._opened(name, sealed)

    async def put(self, key: bytes, saved: Saved) -> None:
        if self._is_paused():
            return
        name = self._name(key)
        try:
            async with asyncio.timeout(self.deadline_s):
                await self.client.set(name, self._sealed(name, saved), ex=saved.ttl_s)
        except (RedisError, OSError, TimeoutError) as error:
            self._trouble(error)

    def _name(self, key: bytes) -> bytes:
        return PREFIX + hmac.digest(self.secret, b"name" + key, "sha256").hex().encode()

    def _sealed(self, name: bytes, saved: Saved) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, written(saved), name)

    def _opened(self, name: bytes, sealed: bytes) -> Saved | None:
        try:
            text = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name)
        except (InvalidTag, ValueError):
            self.failed("not_ours")
            return None
        return read(text)

    def _is_paused(self) -> bool:
        return self.monotonic() < self._paused_until_s

    def _trouble(self, error: Exception) -> None:
        """After a failure Redis is left alone for a while, so that calls do not wait for it one by one."""
        self._paused_until_s = self.monotonic() + self.pause_s
        self.failed("late" if isinstance(error, TimeoutError) else "unreachable")
        log.warning("the shared response cache is no use just now", extra={"cause": type(error).__name__})
