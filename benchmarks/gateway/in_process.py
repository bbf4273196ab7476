"""What the gateway itself costs per call: no sockets, no disk, no other thread; the model server has answered already.

    python -m benchmarks.gateway.in_process [--calls 400] [--runs 25] [--rules 50]

One call after the other through the whole ASGI application. The least of many short runs is what the code costs, even
on a busy machine; the number of function calls says it without any clock.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import uvloop

from audit import LedgerReceipt, Pairing, SqliteLedger
from benchmarks.gateway.parts import free_ports
from benchmarks.gateway.world import REPLY, REQUEST, Ports, World
from controlplane.settings import load
from controlplane.wiring import ControlPlane
from inference.vllm import VllmBackend

BODY, ANSWER = json.dumps(REQUEST).encode(), json.dumps(REPLY).encode()
PATH = "/v1/chat/completions"


class Answer:
    """As much of aiohttp's response and its content as a backend looks at."""

    status, closed = 200, True
    headers: Mapping[str, str] = {}
    raw_headers = ((b"Content-Type", b"application/json"), (b"Content-Length", str(len(ANSWER)).encode()))

    def __init__(self) -> None:
        self.content, self.unread = self, ANSWER

    def read_nowait(self) -> bytes:
        unread, self.unread = self.unread, b""
        return unread

    def at_eof(self) -> bool:
        return not self.unread


async def answered(*_: object) -> Answer:
    return Answer()


async def kept(self: SqliteLedger, kind: str, body: Mapping[str, Any], **pairing: Unpack[Pairing]) -> LedgerReceipt:
    """A record made as ever, and taken for written."""
    item = self._prepare(kind, body, pairing.get("event_id"), pairing.get("opens", False), pairing.get("closes"))
    if item.opens:
        self._open[item.event_id] = 0
    return LedgerReceipt(item.event_id, 0, b"", "")


async def one_call(app: Any, headers: list[tuple[bytes, bytes]]) -> int:
    statuses: list[int] = []
    messages = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
    }
    scope |= {"query_string": b"", "root_path": "", "headers": headers, "state": {}}
    await app(scope, receive, send)
    return statuses[0]


async def measure(world: World, calls: int, runs: int) -> None:
    token = (world.folder / "gateway.lua").read_text("utf-8").partition("Bearer ")[2].partition('"')[0]
    headers = [
        (b"host", b"gateway"),
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {token}".encode()),
    ]
    headers.append((b"content-length", str(len(BODY)).encode()))
    async with ControlPlane(load(world.folder / "gateway.yaml")) as plane:
        SqliteLedger.append = kept  # type: ignore[method-assign]  # what this program is for
        VllmBackend._head = answered  # type: ignore[method-assign, assignment]  # noqa: SLF001  as above

        async def many() -> None:
            for _ in range(calls):
                assert await one_call(plane.app, headers) == 200

        await many()
        gc.collect()
        gc.freeze()
        spent_us = []
        for _ in range(runs):
            started_s = time.process_time()
            await many()
            spent_us.append((time.process_time() - started_s) / calls * 1e6)
        with cProfile.Profile() as profile:
            await many()
        counted = pstats.Stats(profile).total_calls / calls  # type: ignore[attr-defined]  # it is there
        spent_us.sort()
        print(f"{spent_us[0]:.0f} us CPU a call at least, {spent_us[runs // 4]:.0f} in a good quarter of the runs")
        print(f"{counted:.0f} function calls a call, load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400, help="in each run")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--rules", type=int, default=50, help="policy rules that a call is held against")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), Ports(*free_ports(7)))
        world.make(options.rules)
        uvloop.run(measure(world, options.calls, options.runs))


if __name__ == "__main__":
    main()
