"""Work that whoever asked for it hears the end of, cancelled or not."""

from __future__ import annotations

import asyncio

import pytest

from audit.unhurried import unhurried


async def test_a_cancellation_is_raised_when_the_work_is_done() -> None:
    may_end, heard = asyncio.Event(), []

    async def work() -> str:
        await may_end.wait()
        return "done"

    async def caller() -> None:
        heard.append(await unhurried(work()))
        await asyncio.sleep(0)
        heard.append("not reached")

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    await asyncio.wait([task])
    assert (task.cancelled(), heard) == (True, ["done"])


async def test_what_the_work_raises_is_the_callers() -> None:
    async def work() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await unhurried(work())
