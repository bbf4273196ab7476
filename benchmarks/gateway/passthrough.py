"""What any Python proxy costs at least: the same server and HTTP client as the gateway, and nothing between them.

With a ledger (``--config``), what any proxy costs at least that keeps two durable records of each call as the gateway
does: the intent awaited before the call goes out, the outcome written when it is answered. It proves nobody, decides
nothing and counts nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import uvloop

from audit import SqliteLedger, new_event_id
from benchmarks.ledger import INTENT, OUTCOME
from controlplane.serve import http_config
from controlplane.settings import load

Message = MutableMapping[str, Any]


class Passthrough:
    """Reads the body, posts it upstream, answers with what came back."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.session: aiohttp.ClientSession | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if self.session is None:
            self.session = aiohttp.ClientSession(auto_decompress=False)
        async with self.session.post(self.upstream + scope["path"], data=body) as reply:
            answer = await reply.read()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


class Recorded:
    """The pass-through between two records."""

    def __init__(self, passthrough: Passthrough, ledger: SqliteLedger) -> None:
        self.passthrough, self.ledger = passthrough, ledger

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        call = new_event_id()
        await self.ledger.append("intent", INTENT, event_id=call, opens=True)
        await self.passthrough(scope, receive, send)
        await self.ledger.append("outcome", OUTCOME, closes=call)


async def serve(port: int, upstream: str, config: Path | None) -> None:
    passthrough = Passthrough(upstream)
    if config is None:
        await uvicorn.Server(http_config(passthrough, "127.0.0.1", port)).serve()
        return
    ledger = SqliteLedger(load(config).audit)
    await ledger.open()
    try:
        await uvicorn.Server(http_config(Recorded(passthrough, ledger), "127.0.0.1", port)).serve()
    finally:
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--config", type=Path, help="settings whose ledger is written")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.upstream, options.config))


if __name__ == "__main__":
    main()
