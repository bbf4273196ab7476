"""What a lent reply owes when it is given back, for those who lend it without a generator: on the way of every call the
context managers that ``contextlib`` makes of generators cost three times as much as a class.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from inference.backend import BackendReply


def leave(
    lent: AbstractAsyncContextManager[BackendReply],
    chunks: AsyncGenerator[bytes] | None,
    error: BaseException | None,
    trace: TracebackType | None = None,
) -> Awaitable[bool | None]:
    """Close ``chunks``, ours around those of ``lent``, then leave ``lent``, as nested ``async with`` would."""
    if chunks is None:  # a reply that is here whole: one coroutine less, three times in a call
        return lent.__aexit__(None if error is None else type(error), error, trace)
    return _leave_both(lent, chunks, error, trace)


async def _leave_both(
    lent: AbstractAsyncContextManager[BackendReply],
    chunks: AsyncGenerator[bytes],
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool | None:
    try:
        await chunks.aclose()
    except BaseException as broken:
        await lent.__aexit__(type(broken), broken, broken.__traceback__)
        raise
    return await lent.__aexit__(None if error is None else type(error), error, trace)
