"""``python tests/real/mcp_gateway.py REGISTRY FOLDER [--shim] [--deny RESOURCE]``: the whole gateway, as a process.

Real identity, policy, ledger and wiring, on settings, keys and a policy bundle written into FOLDER; one role may do
everything on MCP servers but what is denied. Prints one line of JSON with its port and a token; ends when its stdin
ends. ``--shim`` adds the token for clients that have no setting for one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.gateway.dispatch import ByKind
from controlplane.gateway.doors.mcp import McpDispatch
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.settings import Settings
from controlplane.tools.mcp_upstream import McpBackend
from controlplane.upstreams import GuardedUpstreams
from controlplane.wiring import ControlPlane
from inference.errors import BackendUnavailable

POLICIES = Path(__file__).parents[2] / "policies"
AGENT = "agent:tester"
START_LIMIT_S = 150


class WithToken:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {self.token}".encode())]}
        await self.app(scope, receive, send)


def write_bundle(folder: Path, denied: list[str]) -> None:
    """A bundle in which ``denied`` is all that is denied on MCP servers. JSON is YAML."""
    documents = {
        "roles/tester.yaml": {
            "role": "tester",
            "description": "Tries everything.",
            "rules": [{"id": "tester.all", "on": ["/mcp/**"], "do": "*", "effect": "allow"}],
        },
        "tenants/test/principals.yaml": {"tenant": "test", "principals": [{"id": AGENT, "roles": ["tester"]}]},
        "global/guardrails.yaml": {
            "guards": [{"id": "test.denied", "on": denied, "do": "call", "effect": "deny"}] if denied else []
        },
        "catalog/tools.yaml": {"tools": []},
        "catalog/models.yaml": {"models": []},
    }
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    for name in ("model.conf", "schema.yaml"):
        shutil.copy(POLICIES / name, folder / name)


def settings_in(folder: Path, registry: Path) -> Settings:
    audit = {
        "path": folder / "ledger.db",
        "signing_key": folder / "audit/signing.key",
        "commitment_key": folder / "audit/commitment.key",
        "stall_limit_s": 30,
    }
    identity: dict[str, Any] = {
        "issuer": "urn:controlplane:development-issuer",
        "audience": "urn:controlplane:gateway",
        "jwks_file": folder / "identity/development-jwks.json",
    }
    return Settings.model_validate(
        {
            "state": folder / "state",
            "server": {"http_port": 0, "grpc_port": 0},
            "identity": identity,
            "policy": {"path": folder / "policies"},
            "audit": audit,
            "registry": registry,
        }
    )


async def main(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    token = DevelopmentIssuer(folder / "identity").issue(Grant(subject=AGENT, tenant="test", kind="agent"), ttl_s=3600)
    write_bundle(folder / "policies", options.deny)
    async with ControlPlane(settings_in(folder, options.registry)) as plane:
        with anyio.fail_after(START_LIMIT_S):
            await until_up(plane)
        await serve(WithToken(plane.app, token) if options.shim else plane.app, token)


async def until_up(plane: ControlPlane) -> None:
    assert isinstance(plane.gateway.backends, ByKind)
    dispatch = plane.gateway.backends.kinds["mcp"]
    assert isinstance(dispatch, McpDispatch)
    assert isinstance(dispatch.backend, GuardedUpstreams)
    servers = dispatch.backend.inner
    assert isinstance(servers, McpBackend)
    for server in plane.registry.stdio_servers:
        while True:
            try:
                servers.endpoint(server.name)
                break
            except BackendUnavailable:
                await anyio.sleep(0.05)


async def serve(app: ASGIApp, token: str) -> None:
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sys.stdout.write(json.dumps({"port": listener.getsockname()[1], "token": token}) + "\n")
        sys.stdout.flush()
        serving = asyncio.create_task(server.serve([listener]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("registry", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shim", action="store_true")
    parser.add_argument("--deny", action="append", default=[])
    uvloop.run(main(parser.parse_args()))
