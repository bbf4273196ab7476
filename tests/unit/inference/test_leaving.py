"""Giving a reply back: ours is closed first, what is lent is left whatever happens, and hears of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType

import pytest

from inference.backend import BackendReply
from inference.leaving import leave


class Lent:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def __aenter__(self) -> BackendReply:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.told.append("left" if kind is None else f"left by {kind.__name__}")


async def begun(told: list[str], *, breaks: bool = False) -> AsyncGenerator[bytes]:
    async def chunks() -> AsyncGenerator[bytes]:
        try:
            yield b"a"
        finally:
            told.append("closed")
            if breaks:
                raise OSError("on closing")

    ours = chunks()
    await anext(ours)
    return ours


async def test_ours_is_closed_before_what_is_lent_is_left() -> None:
    lent = Lent()
    await leave(lent, await begun(lent.told), None)
    await leave(lent, None, ValueError())
    assert lent.told == ["closed", "left", "left by ValueError"]


async def test_what_is_lent_is_left_when_ours_breaks_and_hears_of_it() -> None:
    lent = Lent()
    with pytest.raises(OSError, match="on closing"):
        await leave(lent, await begun(lent.told, breaks=True), None)
    assert lent.told == ["closed", "left by OSError"]
