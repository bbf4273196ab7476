"""A reply that is over is no hang-up, although the server says so in the same words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from audit.unhurried import Unhurried
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
    async with HangUp() as gone:
        gone.watch(server.receive)
        exchange = Exchange(server.send, gone.rest)
        await exchange.start(200, [])
        await exchange.end()
        await turns(5)
        recorded = True

    assert recorded


async def test_a_client_that_goes_earlier_still_ends_the_work() -> None:
    server, finished = Server(), False
    async with HangUp() as gone:
        gone.watch(server.receive)
        server.over.set()
        await turns(5)
        finished = True

    assert not finished


async def test_a_client_that_has_gone_before_we_watch_ends_the_work_at_its_next_wait() -> None:
    server, finished = Server(), False
    server.over.set()
    async with HangUp() as gone:
        gone.watch(server.receive)
        await turns(1)
        finished = True

    assert not finished


async def test_a_client_that_goes_after_the_work_cancels_nothing() -> None:
    server = Server()
    async with HangUp() as gone:
        gone.watch(server.receive)
        await turns(1)
    server.over.set()
    await turns(5)


async def test_a_failure_that_comes_with_a_hang_up_is_not_swallowed() -> None:
    async def fails_when_it_is_cancelled() -> None:
        server = Server()
        async with HangUp() as gone:
            gone.watch(server.receive)
            server.over.set()
            try:
                await turns(5)
            except asyncio.CancelledError:
                raise ValueError("a bug of ours") from None

    with pytest.raises(ValueError, match="ours"):
        await fails_when_it_is_cancelled()


async def test_a_server_that_repeats_itself_does_not_stop_the_work() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async with HangUp() as gone:
        gone.watch(receive)
        await turns(5)
        gone.rest()
        await turns(5)


async def test_whoever_waits_in_turns_of_the_loop_is_heard_too() -> None:
    async def receive() -> dict[str, Any]:
        await turns(3)
        return {"type": "http.disconnect"}

    finished = False
    async with HangUp() as gone:
        gone.watch(receive)
        await turns(10)
        finished = True

    assert not finished


async def test_a_client_that_goes_in_the_last_wait_leaves_no_cancellation_behind() -> None:
    """The wait may be one that a cancellation cannot cut short: then it is still on its way when the block ends."""
    server, written = Server(), Unhurried[None]()
    async with HangUp() as gone:
        gone.watch(server.receive)
        server.over.set()
        asyncio.get_running_loop().call_later(0, written.set_result, None)
        await written.outcome()

    await turns(3)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_somebody_elses_cancellation_is_not_taken_for_a_hang_up() -> None:
    async def serve() -> None:
        async with HangUp() as gone:
            gone.watch(Server().receive)
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await turns(3)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_hang_up_together_with_somebody_elses_cancellation_ends_the_task() -> None:
    server = Server()

    async def serve() -> None:
        async with HangUp() as gone:
            gone.watch(server.receive)
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await turns(3)
    server.over.set()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
