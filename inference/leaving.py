"""What a lent reply owes when it is given back, for those who lend it without a generator: on the way of every call the
context managers that ``contextlib`` makes of generators cost three times as much as a class.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from inference.backend import BackendReply


async def leave(
    lent: AbstractAsyncContextManager[BackendReply],
    chunks: AsyncGenerator[bytes] | None,
    error: BaseException | None,
    trace: TracebackType | None = None,
) -> bool | None:
    """Close ``chunks``, ours around those of ``lent``, then leave ``lent``, as nested ``async with`` would."""
    if chunks is not None:
        try:
            await chunks.aclose()
        except BaseException as broken:
            await lent.__aexit__(type(broken), broken, broken.__traceback__)
            raise
    return await lent.__aexit__(None if error is None else type(error), error, trace)
