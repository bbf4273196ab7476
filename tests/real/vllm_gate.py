"""A whole gateway before one model server: two tenants, keys, policy, ledger and sockets of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from audit import LedgerReader
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.wiring import ControlPlane
from tests.matrix.world import listening
from tests.real.conftest import ROOT, RunningVllm
from tests.real.gateway_settings import settings_in

TENANTS = ("acme", "globex")
MODEL = {"task": "chat", "backend": "server", "sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "t"}
RULE = {"id": "agent.models", "on": ["/model", "/model/**"], "do": "*", "effect": "allow"}
POLL_S = 0.01
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Gate:
    url: str
    origin: str  # of the model server
    tokens: dict[str, str]  # by tenant
    ledger: Path
    plane: ControlPlane

    async def outcomes(self, count: int) -> list[dict[str, Any]]:
        """All outcomes, when there are ``count``; a relaxed call's may come a moment after its last byte."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            records = LedgerReader(self.ledger).read(kinds=["outcome"])
            if len(records) >= count or time.monotonic() > deadline:
                assert len(records) == count
                return [{"closes": record.body["closes"], **record.body["outcome"]} for record in records]
            await asyncio.sleep(POLL_S)

    async def metric(self, name: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.origin}/metrics") as response:
            text = await response.text()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{"))

    async def until_generated(self, count: float) -> None:
        while await self.metric("vllm:generation_tokens_total") < count:  # noqa: ASYNC110  of another process
            await asyncio.sleep(POLL_S)

    async def until_running(self, count: int) -> float:
        """Seconds until the model server works on ``count`` requests."""
        began = time.monotonic()
        while await self.metric("vllm:num_requests_running") != count:
            assert time.monotonic() - began < PATIENCE_S, f"the server never had {count} requests running"
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began


def write_policies(folder: Path, models: tuple[str, ...]) -> Path:
    """Every agent may call every model. JSON is YAML."""
    documents: dict[str, Any] = {
        "roles/agent.yaml": {"role": "agent", "rules": [RULE]},
        "global/guardrails.yaml": {"guards": []},
        "catalog/tools.yaml": {"tools": []},
        "catalog/models.yaml": {"models": [{"name": name, **MODEL} for name in models]},
    }
    for tenant in TENANTS:
        principals = [{"id": f"agent:{tenant}", "roles": ["agent"]}]
        documents[f"tenants/{tenant}/principals.yaml"] = {"tenant": tenant, "principals": principals}
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    for name in ("model.conf", "schema.yaml"):
        shutil.copy(ROOT / "policies" / name, folder / name)
    return folder


@asynccontextmanager
async def running_gate(
    server: RunningVllm, key_file: Path, folder: Path, *, models: tuple[str, ...] = ("tiny",), **backend: Any
) -> AsyncGenerator[Gate]:
    """``backend`` is more settings of the model server."""
    unprobed = {"watch": {"probe": "none"}}  # what runs at the server is what a test sent there
    served = {"kind": "openai", "base_url": f"{server.origin}/v1", "api_key_file": key_file, "routing": unprobed}
    served |= backend
    async with running_before(served, folder, models, server.origin) as gate:
        yield gate


@asynccontextmanager
async def running_before(
    server: dict[str, Any], folder: Path, models: tuple[str, ...], origin: str = ""
) -> AsyncGenerator[Gate]:
    issuer = DevelopmentIssuer(folder / "identity")
    policies = write_policies(folder / "policies", models)
    settings = settings_in(folder, issuer, {"server": server}, policies)
    tokens = {tenant: issuer.issue(Grant(subject=f"agent:{tenant}", tenant=tenant)) for tenant in TENANTS}
    async with ControlPlane(settings) as plane, listening(plane.app) as port:
        yield Gate(f"http://127.0.0.1:{port}", origin, tokens, settings.audit.path, plane)
