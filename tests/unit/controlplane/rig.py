"""A real ledger, a real fleet and an embedded model server on a loopback port, without gateway or monitor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from audit import AuditSettings, Record, SqliteLedger
from controlplane.calls import Principal
from controlplane.clock import Clock
from controlplane.fleet import Fleet
from controlplane.model_moves import ModelMoves, ModelState
from controlplane.policy import Catalogue, ModelEntry
from controlplane.settings import Settings
from controlplane.telemetry.metrics import Metrics
from inference.savedmodel import export_mlp
from inference.tfserving.servables import Servables
from inference.tfserving.server import EmbeddedServer
from inference.tfserving.settings import EmbeddedServerSettings

MONITOR = Principal(subject="service:monitor", tenant="acme", kind="service")
PATIENCE_S = 60  # for what happens at once on a machine that has nothing else to do


def publish(base: Path, version: int) -> None:
    random = np.random.default_rng(version)
    layers: list[Any] = [(random.normal(size=(2, 3)), random.normal(size=3))]
    export_mlp(base / str(version), layers, feature_names=["a", "b"], class_names=["x", "y", "z"])


def entry(name: str, backend: str = "tfs", fallback: tuple[str, ...] = ()) -> ModelEntry:
    said = {"name": name, "backend": backend, "task": "classification", "fallback": list(fallback), "owner": "test"}
    return ModelEntry.model_validate(said | {"sensitivity": 1, "side_effect": "read", "cost_tier": "low"})


@dataclass
class ModelServer:
    """The embedded server on a port that stays the same, so that it can be stopped and started again."""

    folder: Path
    port: int = 0
    running: EmbeddedServer | None = None

    async def start(self) -> None:
        settings = EmbeddedServerSettings(base=self.folder, port=self.port)
        servables = Servables()
        servables.serve_latest(settings.all_models())
        self.running = EmbeddedServer(settings, servables)
        await self.running.start()
        self.port = self.running.port

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None


@dataclass
class Rig:
    """``moves`` and ``fleet`` of one life of the gateway; ``restart`` begins another on the same files."""

    folder: Path
    server: ModelServer
    catalogue: Catalogue = field(default_factory=lambda: Catalogue(models={"risk": entry("risk")}))
    backends: dict[str, Any] = field(default_factory=dict)
    step: int = 0

    async def begin(self) -> None:
        target = {"kind": "tfserving", "target": f"127.0.0.1:{self.server.port}", "reconnect_s": 0.05}
        backends = {"tfs": target | {"models": {"risk": str(self.folder / "models/risk")}}} | self.backends
        identity = {"issuer": "urn:i", "audience": "urn:a", "jwks_file": self.folder / "jwks.json"}
        settings = Settings.model_validate({"state": self.folder, "identity": identity, "backends": backends})
        self.ledger = SqliteLedger(
            AuditSettings(
                writer="thread",
                path=self.folder / "ledger.sqlite",
                signing_key=self.folder / "signing.key",
                commitment_key=self.folder / "commit.key",
                stall_limit_s=30,
                retry_ms=10,
            )
        )
        await self.ledger.open()
        self.fleet = Fleet(settings, lambda: self.catalogue, Clock())
        self.moves = ModelMoves(self.ledger, self.fleet, Metrics("test"))
        self.moves.resume()

    async def end(self) -> None:
        await self.fleet.aclose()
        await self.ledger.close()

    async def restart(self) -> None:
        await self.end()
        await self.begin()

    async def ask(self, source: str, reason: str, target: str, **more: Any) -> ModelState:
        """The next move, with a key that was not used before unless ``key`` is given."""
        self.step += 1
        wish = {"key": f"k{self.step}", "version": 1, "from": source, "to": target, "reason": reason}
        return await self.moves.ask("risk", wish | more, MONITOR)

    async def degrade(self) -> None:
        await self.ask("LEARNING", "reference_learnt", "HEALTHY")
        await self.ask("HEALTHY", "risk_left_band", "DEGRADED")
        await self.ask("DEGRADED", "fallback_better", "DEGRADED")

    async def reach_shadow(self) -> None:
        await self.degrade()
        await self.ask("DEGRADED", "retrain", "RETRAINING", new_version=2)
        await self.ask("RETRAINING", "trained", "SHADOW", new_version=2)

    def recorded(self) -> list[Record]:
        return self.ledger.read(kinds=["drift.transition"])

    def holds(self, name: str = "risk/1") -> tuple[str, ...]:
        held = {each.name: each.holds for each in self.fleet.breakers.snapshot()}
        return held.get(name, ())


async def until(condition: Any) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the state is another task's, it has no event to give
            await anyio.sleep(0.005)
