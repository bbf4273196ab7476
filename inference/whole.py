"""A reply's body that is here already, in one piece: the usual case, and the one that should cost least."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any


class Whole(AsyncGenerator[bytes, None]):
    """Chunks of a reply of which nothing is still to come. Whoever knows the type may ``take`` them at once."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    def take(self) -> bytes:
        """The body, the first time; b"" when it was taken, read or closed before."""
        body, self.body = self.body, b""
        return body

    async def __anext__(self) -> bytes:
        if not self.body:
            raise StopAsyncIteration
        return self.take()

    async def asend(self, value: None) -> bytes:  # noqa: ARG002  as every generator
        return await self.__anext__()

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None) -> bytes:
        self.body = b""
        return await super().athrow(kind, value, trace)

    async def aclose(self) -> None:
        self.body = b""
