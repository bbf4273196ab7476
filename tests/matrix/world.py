"""One whole gateway per cell: real keys, tokens, policy files, ledger and sockets in a folder of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from audit import SqliteLedger, new_event_id
from audit.entry import Record
from audit.verify import verify
from controlplane.gateway.obligations import Obligations
from controlplane.identity.development import DEVELOPMENT_AUDIENCE, DEVELOPMENT_ISSUER, DevelopmentIssuer, Grant
from controlplane.serve import http_config
from controlplane.settings import Settings
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import Upstream, closed_port

SHIPPED = Path(__file__).parents[2] / "policies"
EVERYTHING = ["/model", "/model/**", "/tool/**", "/mcp/**", "/feedback"]
PATIENCE_S = 60  # for what happens at once on a machine that has nothing else to do
STALL_LIMIT_S = 30  # of the ledger, on a machine whose disk is busy
CALL_KINDS = ("intent", "deny", "outcome")
BEGINNING = 2  # of these in every ledger before its first call here
UNWATCHED = {"watch": {"metrics": False, "probe": "none"}}  # what reaches the upstream is what a call sent there
TIMEOUTS = ("model_s", "tool_s", "mcp_s")
DRAIN_S = 5


def _rule(name: str, effect: str = "allow", **more: Any) -> dict[str, Any]:
    return {"id": f"{name}.everything", "on": EVERYTHING, "do": "*", "effect": effect, **more}


ROLES = {
    "good": _rule("good"),
    "denied": _rule("denied", "deny"),
    "faulty": _rule("faulty", when="r.sub.clearance > 0"),  # nothing says what clearance these agents have
    "obliged": _rule("obliged", oblige=[{"rate_limit": {"key": "subject", "per_s": 60, "max": 5}}]),
}
AGENTS = {"good": ["good"], "denied": ["good", "denied"], "faulty": ["faulty"], "obliged": ["obliged"]}
JUDGED = new_event_id()
"""A finished call to a model that every ledger here begins with: feedback needs something to be about."""
MODEL = {"sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "test"}


def write_bundle(folder: Path) -> None:
    """JSON is YAML."""
    roles = {f"roles/{name}.yaml": {"role": name, "rules": [rule]} for name, rule in ROLES.items()}
    principals = [{"id": f"agent:{name}", "roles": held} for name, held in AGENTS.items()]
    models = [{"name": "risk", "task": "classification", "backend": "tfs", **MODEL}]
    models += [{"name": "tiny", "task": "chat", "backend": "vllm", **MODEL}]
    documents = roles | {
        "tenants/test/principals.yaml": {"tenant": "test", "principals": principals},
        "global/guardrails.yaml": {"guards": []},
        "catalog/tools.yaml": {"tools": []},
        "catalog/models.yaml": {"models": models},
    }
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    for name in ("model.conf", "schema.yaml"):
        shutil.copy(SHIPPED / name, folder / name)


@dataclass
class World:
    """What exists before the gateway does. ``tokens`` by the name of the agent or of what is wrong with them."""

    folder: Path
    upstream: Upstream
    backend_is_up: bool = True
    timeout_s: float = 60.0
    tokens: dict[str, str] = field(default_factory=dict)

    def build(self) -> None:
        write_bundle(self.folder / "policies")
        self._issue()
        (self.folder / "denylist.json").write_text(json.dumps({"subjects": ["agent:revoked"]}))
        deployed = {"risk": {"versions": [1], "labels": {"stable": 1}}}
        (self.folder / "state").mkdir()
        (self.folder / "state/deployment-tfs.json").write_text(json.dumps(deployed))

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    def settings(self) -> Settings:
        return Settings.model_validate(self.document())

    def document(self) -> dict[str, Any]:
        """The settings as a file would have them; the registry that they name is written."""
        folder, http, rpc = self.folder, self._http_port(), self._grpc_port()
        (folder / "registry.yaml").write_text(json.dumps(_registry(http)))
        identity = {
            "issuer": DEVELOPMENT_ISSUER,
            "audience": DEVELOPMENT_AUDIENCE,
            "jwks_file": str(folder / "identity/development-jwks.json"),
            "denylist_file": str(folder / "denylist.json"),
            "resource_metadata_url": "http://127.0.0.1/.well-known/oauth-protected-resource",
        }
        ledger = {
            "path": str(self.ledger),
            "signing_key": str(folder / "signing.key"),
            "commitment_key": str(folder / "commit.key"),
            "stall_limit_s": STALL_LIMIT_S,
        }
        backends: dict[str, dict[str, Any]] = {
            "tfs": {"kind": "tfserving", "target": f"127.0.0.1:{rpc}", "models": {"risk": "/models/risk"}},
            "vllm": {"kind": "openai", "base_url": f"http://127.0.0.1:{http}/v1"},
        }
        for backend in backends.values():
            backend["routing"] = UNWATCHED
        return {
            "state": str(folder / "state"),
            "server": {"http_port": 0, "grpc_port": 0, "drain_s": DRAIN_S},
            "identity": identity,
            "policy": {"path": str(folder / "policies")},
            "audit": ledger,
            "registry": str(folder / "registry.yaml"),
            "timeouts": dict.fromkeys(TIMEOUTS, self.timeout_s),
            "backends": backends,
            "adaptation": {"enabled": False},  # a full machine would be throttled, as it should be
        }

    async def begin_ledger(self) -> None:
        ledger = SqliteLedger(self.settings().audit)
        await ledger.open()
        intent = {"principal": {"tenant": "test"}, "action": {"kind": "infer", "name": "/model/tiny"}}
        await ledger.append("intent", intent, event_id=JUDGED, opens=True)
        await ledger.append("outcome", {"outcome": {"status": "ok", "rung": "primary"}}, closes=JUDGED)
        await ledger.close()

    def _issue(self) -> None:
        issuer = DevelopmentIssuer(self.folder / "identity")
        grants = {name: Grant(subject=f"agent:{name}", tenant="test") for name in (*AGENTS, "revoked")}
        self.tokens = {name: issuer.issue(grant) for name, grant in grants.items()}
        self.tokens["expired"] = issuer.issue(grants["good"], now_s=time.time() - 7200)
        foreign = DevelopmentIssuer(self.folder / "identity", audience="urn:another:gateway")
        self.tokens["wrong audience"] = foreign.issue(grants["good"])
        signed, _, _ = self.tokens["good"].rpartition(".")
        self.tokens["bad signature"] = f"{signed}.{self.tokens['denied'].rpartition('.')[2]}"
        self.tokens["none"] = ""

    def _http_port(self) -> int:
        return self.upstream.http_port if self.backend_is_up else closed_port()

    def _grpc_port(self) -> int:
        return self.upstream.grpc_port if self.backend_is_up else closed_port()


def _registry(http_port: int) -> dict[str, Any]:
    upstream = f"http://127.0.0.1:{http_port}"
    return {
        "http_tools": [{"name": "refund", "url": f"{upstream}/refund"}],
        "mcp_servers": [{"name": "clock", "url": f"{upstream}/mcp"}],
    }


@dataclass
class Gate:
    """The gateway of one cell while it runs."""

    plane: ControlPlane
    world: World
    url: str
    since: int
    expected: int = 0

    async def records(self, count: int) -> list[Record]:
        """What calls left in the ledger, when there are ``count`` of them. More may not come until the very end."""
        self.expected = count
        await until(lambda: len(self._written()) >= count)
        return self._written()

    def _written(self) -> list[Record]:
        return self.plane.ledger.read(after=self.since, kinds=CALL_KINDS)


NOTHING = Obligations({})


@asynccontextmanager
async def running(world: World, obligations: Obligations | None = NOTHING) -> AsyncGenerator[Gate]:
    """The gateway, wired as in production, on ports of its own. Its ledger is verified at the end.

    It can meet no obligation at all, or (None) those that it meets in production.
    """
    if not world.ledger.exists():
        await world.begin_ledger()
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane(world.settings(), obligations=obligations))
        port = await stack.enter_async_context(listening(plane.app))
        if world.backend_is_up:
            with anyio.fail_after(PATIENCE_S):
                await world.upstream.greeted.wait()
                await until(lambda: plane.fleet.known("risk") is not None)  # what REST bodies are written by
        gate = Gate(plane, world, f"http://127.0.0.1:{port}", plane.ledger.head.size - 1)
        yield gate
    report = verify(world.ledger, plane.ledger.verifier_key)
    assert report.is_sound, report.faults
    assert sum(report.kinds[kind] for kind in CALL_KINDS) == gate.expected + BEGINNING


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncGenerator[int]:
    """``app`` behind the server that the product uses, in this event loop, without its signal handlers."""
    config = http_config(app, "127.0.0.1", 0, drain_s=DRAIN_S)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the state is the ledger's, it has no event to give
            await anyio.sleep(0.002)
