"""A reply that is over is no hang-up, although the server says so in the same words."""

from __future__ import annotations

import asyncio
from typing import Any

from controlplane.gateway.edge import Exchange
from controlplane.gateway.hangup import HangUp


class Server:
    """Says that the client has gone as soon as the reply is over, as uvicorn does."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if not message.get("more_body", True):
            self.over.set()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_follows_the_last_byte_is_not_cancelled() -> None:
    server, recorded = Server(), False
    with HangUp() as gone:
        gone.watch(server.receive)
        exchange = Exchange(server.send, gone.rest)
        await exchange.start(200, [])
        await exchange.end()
        await turns(5)
        recorded = True

    assert recorded


async def test_a_client_that_goes_earlier_still_ends_the_work() -> None:
    server, finished = Server(), False
    with HangUp() as gone:
        gone.watch(server.receive)
        server.over.set()
        await turns(5)
        finished = True

    assert not finished
