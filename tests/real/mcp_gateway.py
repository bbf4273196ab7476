"""``python tests/real/mcp_gateway.py REGISTRY [--shim] [--deny RESOURCE]``: a gateway with only its MCP door.

A process of its own. Door, edge, header hygiene, dispatch, upstreams and supervisor are the product's; policy grants
everything but what is denied by name, the ledger is a list. Prints one line of JSON with its port; ends when its stdin
ends. ``--shim`` adds the token that a client without a setting for it cannot send.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.calls import Call, Decision, Effect, Principal, Receipt, RuleRef
from controlplane.gateway.doors.mcp import McpDispatch, McpDoor, McpDoorSettings
from controlplane.gateway.edge import routes
from controlplane.gateway.gateway import Gateway
from controlplane.gateway.hygiene import Hygiene
from controlplane.gateway.obligations import Obligations
from controlplane.identity.errors import Unauthenticated
from controlplane.tools.exchange import open_session
from controlplane.tools.mcp_upstream import McpBackend, remote_endpoints
from controlplane.tools.registry import load_registry
from controlplane.tools.supervisor import BridgeProcesses, Supervisor, SupervisorSettings

TOKEN = "test-token"


class OneToken:
    async def authenticate(self, credential: str) -> Principal:
        if credential != TOKEN:
            raise Unauthenticated("bad_signature")
        return Principal(subject="agent:test", tenant="test")


class AllBut:
    def __init__(self, denied: list[str]) -> None:
        self.denied = denied

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        if call.resource in self.denied:
            rule = RuleRef("test.denied", "test.yaml:1")
            return Decision(effect=Effect.DENY, reason="rule_denied", revision="test", rules=(rule,))
        return Decision(effect=Effect.ALLOW, reason="granted", revision="test")


class ListLedger:
    def __init__(self) -> None:
        self.entries: list[Any] = []

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        self.entries.append(call.id)
        return Receipt(call.id, len(self.entries), "")

    async def record_outcome(self, admission: Any, outcome: Any) -> Receipt:
        self.entries.append(outcome.status)
        return Receipt(admission.receipt.event_id, len(self.entries), "")


class Nobody:
    def refused(self, *_: Any) -> None: ...
    def admitted(self, *_: Any) -> None: ...
    def observe(self, *_: Any, recorded: bool) -> None: ...


class WithToken:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {TOKEN}".encode())]}
        await self.app(scope, receive, send)


async def main(options: argparse.Namespace) -> None:
    registry = load_registry(options.registry)
    supervision = SupervisorSettings()
    supervisor = Supervisor(
        registry.stdio_servers, BridgeProcesses(supervision, os.environ), supervision, time.monotonic
    )
    async with open_session() as session:
        settings = McpDoorSettings()
        backend = McpBackend(session, remote_endpoints(registry.mcp_servers), supervisor.find)
        policy = AllBut(options.deny)
        gateway = Gateway(OneToken(), policy, Obligations({}), ListLedger(), McpDispatch(backend, settings), Nobody())
        door = McpDoor(settings, lambda principal, action, resource: resource not in options.deny)
        app: ASGIApp = Hygiene(Starlette(routes=routes([door], gateway, lambda p: "Bearer", lambda d, r: None)))
        bridges = asyncio.create_task(supervisor.run())
        await asyncio.wait_for(supervisor.all_up(), supervision.ready_timeout_s)
        await serve(WithToken(app) if options.shim else app)
        bridges.cancel()
        await asyncio.wait([bridges])


async def serve(app: ASGIApp) -> None:
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        serving = asyncio.create_task(server.serve([listener]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("registry", type=Path)
    parser.add_argument("--shim", action="store_true")
    parser.add_argument("--deny", action="append", default=[])
    asyncio.run(main(parser.parse_args()))
