"""The issuer's keys, read in the background and served from memory.

A key set that cannot be refreshed is believed for ``max_stale_s`` and not a second longer. Tokens with unknown keys may
cause one early reading per cool-down, however many arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import aiohttp

from controlplane.identity.errors import IdentityUnavailable
from controlplane.identity.keys import KeySet, KeySetRefused, VerificationKey, parse_key_set
from controlplane.identity.settings import IdentitySettings

log = logging.getLogger(__name__)

NEVER_S = float("-inf")
FIRST_RETRY_S = 1.0

Source = Callable[[], Awaitable[bytes]]
"""Reads the key set's document; raises ``OSError``, ``aiohttp.ClientError``, ``TimeoutError`` or ``KeySetRefused``."""


class JwksKeys:
    """Use as an async context manager: entering reads the set once and starts the refreshing.

    ``generation`` changes whenever the keys do, so that whoever remembers a verified token knows to forget it.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        *,
        source: Source | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.generation = 0
        self._settings, self._monotonic = settings, monotonic
        self._source = source or _source(settings)
        self._keys: KeySet | None = None
        self._digest = b""
        self._read_at_s = self._asked_at_s = NEVER_S
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._task = asyncio.create_task(self._keep_fresh(), name="identity-keys")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def current(self) -> KeySet:
        """Raises ``IdentityUnavailable``: ``keys_unavailable`` (never read) or ``keys_stale``."""
        if self._keys is None:
            raise IdentityUnavailable("keys_unavailable")
        if self._monotonic() - self._read_at_s > self._settings.max_stale_s:
            raise IdentityUnavailable("keys_stale")
        return self._keys

    async def find(self, kid: str | None) -> VerificationKey | None:
        """The key of that name, read anew when it is unknown and the cool-down allows."""
        key = self.current().find(kid)
        if key is not None or kid is None:
            return key
        async with self._reading:  # whoever waited here finds what the first one fetched
            key = self.current().find(kid)
            if key is None and self._monotonic() - self._asked_at_s >= self._settings.unknown_key_cooldown_s:
                await self._read()
                key = self.current().find(kid)
        return key

    async def refresh(self) -> bool:
        """Read the set now. False: it could not be read, or was refused; what we had stays until it is stale."""
        async with self._reading:
            return await self._read()

    async def _read(self) -> bool:
        self._asked_at_s = asked_at_s = self._monotonic()
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                document = await self._source()
            keys = parse_key_set(document, self._settings.algorithms, self._settings.rsa_algorithm)
        except (OSError, aiohttp.ClientError, TimeoutError, KeySetRefused) as error:
            log.warning("key set not refreshed", extra={"cause": str(error) or type(error).__name__})
            return False
        for why in keys.ignored:
            log.warning("key ignored", extra={"cause": why})
        digest = hashlib.sha256(document).digest()
        if digest != self._digest:
            self.generation += 1
        self._keys, self._digest, self._read_at_s = keys, digest, asked_at_s
        return True

    async def _keep_fresh(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            healthy = self._read_at_s == self._asked_at_s
            wait_s = self._settings.refresh_s if healthy else min(retry_s, self._settings.refresh_s)
            retry_s = FIRST_RETRY_S if healthy else retry_s * 2
            await asyncio.sleep(wait_s)
            await self.refresh()


def _source(settings: IdentitySettings) -> Source:
    return _file_source(settings) if settings.jwks_file is not None else _url_source(settings)


def _file_source(settings: IdentitySettings) -> Source:
    path = settings.jwks_file
    assert path is not None  # noqa: S101  settings hold exactly one of the two

    def read() -> bytes:
        with path.open("rb") as file:
            return _bounded(file.read(settings.max_jwks_bytes + 1), settings.max_jwks_bytes)

    return lambda: asyncio.to_thread(read)


def _url_source(settings: IdentitySettings) -> Source:
    url = settings.jwks_url or ""

    async def fetch() -> bytes:
        timeout = aiohttp.ClientTimeout(total=settings.fetch_timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers={"accept": "application/json"}) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:  # noqa: PLR2004  a redirect must not choose our keys
                raise KeySetRefused(f"the issuer answered {response.status}")
            document = bytearray()
            async for chunk in response.content.iter_chunked(16_384):
                document += chunk
                _bounded(bytes(document), settings.max_jwks_bytes)
            return bytes(document)

    return fetch


def _bounded(document: bytes, limit: int) -> bytes:
    if len(document) > limit:
        raise KeySetRefused(f"key set larger than {limit} bytes")
    return document
