"""A reply that is read whole, if it is no longer than its sender has to say."""

from __future__ import annotations

import aiohttp

LONGEST_REPLY_BYTES = 4 * 1024 * 1024


async def read_whole(reply: aiohttp.ClientResponse) -> bytes:
    """Raises ``ValueError`` when there is more than ``LONGEST_REPLY_BYTES``."""
    read = bytearray()
    async for part in reply.content.iter_any():
        read += part
        if len(read) > LONGEST_REPLY_BYTES:
            raise ValueError(f"an answer of more than {LONGEST_REPLY_BYTES} bytes")
    return bytes(read)
