"""Credential → Principal: the first step of the product's sentence."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Self

from controlplane.calls import Principal
from controlplane.identity.denylist import Denylist
from controlplane.identity.errors import Unauthenticated
from controlplane.identity.jwks import JwksKeys
from controlplane.identity.settings import IdentitySettings
from controlplane.identity.tokens import VerifiedToken, parse, verify


class TokenIdentity:
    """Proves callers by JWT access tokens. An async context manager: entering reads the keys and keeps them fresh.

    A signature is checked once per token and key set; time, revocation and the state of the keys on every call.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        *,
        keys: JwksKeys | None = None,
        denylist: Denylist | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._wall_clock = settings, wall_clock
        self._keys = keys or JwksKeys(settings)
        self._denylist = denylist or Denylist(settings.denylist_file)
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._verified_with = 0  # the generation of keys that all remembered tokens were verified with

    async def __aenter__(self) -> Self:
        await self._keys.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._keys.__aexit__(kind, error, trace)

    async def authenticate(self, credential: str) -> Principal:
        """Who presents ``credential``.

        Raises:
            Unauthenticated: it proves nobody.
            IdentityUnavailable: that cannot be told now (keys missing or stale, denylist unreadable).
        """
        if not credential:
            raise Unauthenticated("no_credential")
        if len(credential) > self._settings.max_token_bytes:  # a JWS is ASCII: its characters are bytes
            raise Unauthenticated("token_too_large")
        self._keys.current()
        self._forget_if_rekeyed()
        digest = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
        verified = self._verified.get(digest)
        if verified is None:
            verified = await self._verify(credential, digest)
        else:
            self._verified.move_to_end(digest)
        verified.require_current(self._wall_clock(), self._settings.leeway_s)
        self._denylist.require_not_revoked(verified.principal)
        return verified.principal

    async def _verify(self, credential: str, digest: bytes) -> VerifiedToken:
        token = parse(credential, self._settings)
        verified = verify(token, await self._keys.find(token.kid), self._settings)
        self._remember(digest, verified)
        return verified

    def _forget_if_rekeyed(self) -> None:
        if self._verified_with != self._keys.generation:
            self._verified.clear()
            self._verified_with = self._keys.generation

    def _remember(self, digest: bytes, verified: VerifiedToken) -> None:
        self._verified[digest] = verified
        while len(self._verified) > self._settings.cached_tokens:
            self._verified.popitem(last=False)
