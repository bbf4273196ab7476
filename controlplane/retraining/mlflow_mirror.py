"""Promoted versions shown in an MLflow model registry, for people who look there. Over REST; mlflow is not imported.

A mirror and no more: nothing is read back from it, nothing waits for it, and no failure of it touches the loop. The
ledger and the provenance beside the model are what holds. Fails open.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from controlplane.drift.states import State
from controlplane.retraining.ports import Gateway, Review
from controlplane.retraining.runners.rest import Rest
from controlplane.retraining.settings import MlflowSettings
from controlplane.retraining.trainer import TrainingError
from controlplane.retraining.versions import MANIFEST, Versions, digest_of_bytes, facts_of

log = logging.getLogger(__name__)

API = "/api/2.0/mlflow"
EXISTS = "RESOURCE_ALREADY_EXISTS"
MIRROR_S = 60.0
TAG = "controlplane."
DIGEST_TAG = f"{TAG}manifest_sha256"
MOST_TAG_LENGTH = 5_000  # MLflow's own limit


@dataclass(frozen=True, slots=True)
class MlflowMirror:
    """The registry that the settings name; versions lie under ``root``."""

    settings: MlflowSettings
    root: Path

    async def show(self, model: str, version: int) -> bool:
        """Register the version, unless it is registered, and point the alias at it; whether that came to its end."""
        try:
            async with asyncio.timeout(MIRROR_S):
                manifest = (Versions(self.root, model).directory(version) / MANIFEST).read_bytes()
                facts = facts_of(json.loads(manifest)) | {"manifest_sha256": digest_of_bytes(manifest)}
                await self._show(model, version, facts)
        except (TrainingError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("mlflow does not show %s/%d: %r", model, version, error)
            return False
        log.info("mlflow shows %s/%d as %s", model, version, self.settings.alias)
        return True

    async def _show(self, model: str, version: int, facts: Mapping[str, int | str]) -> None:
        rest = Rest(self.settings.url.rstrip("/"), self.settings.token_file, self.settings.ca_file)
        name = self.settings.name_prefix + model
        status, said = await rest.ask_json(
            "POST", f"{API}/registered-models/create", {"name": name}, expected=(HTTPStatus.BAD_REQUEST,)
        )
        if status == HTTPStatus.BAD_REQUEST and said.get("error_code") != EXISTS:
            raise ValueError(f"the model cannot be registered: {said}")
        registered = await self._registered(rest, name, str(facts["manifest_sha256"]))
        if registered is None:
            registered = await self._register(rest, name, f"{self.settings.source}/{model}/{version}", version, facts)
        alias = {"name": name, "alias": self.settings.alias, "version": registered}
        await rest.ask_json("POST", f"{API}/registered-models/alias", alias)

    async def _registered(self, rest: Rest, name: str, digest: str) -> str | None:
        """The registry's number of a version with this provenance."""
        if "'" in name:
            raise ValueError(f"{name!r} cannot be asked for")
        params = {"filter": f"name='{name}' AND tags.`{DIGEST_TAG}`='{digest}'", "max_results": "1"}
        _, said = await rest.ask("GET", f"{API}/model-versions/search", params=params)
        return next((str(each["version"]) for each in said.get("model_versions") or ()), None)

    async def _register(self, rest: Rest, name: str, source: str, version: int, facts: Mapping[str, int | str]) -> str:
        tags = {f"{TAG}{key}": str(said)[:MOST_TAG_LENGTH] for key, said in facts.items()}
        wish = {
            "name": name,
            "source": source,
            "description": f"version {version} as served",
            "tags": [{"key": key, "value": said} for key, said in (tags | {f"{TAG}version": str(version)}).items()],
        }
        _, said = await rest.ask_json("POST", f"{API}/model-versions/create", wish)
        return str(said["model_version"]["version"])


@dataclass(slots=True)
class MirroredGateway:
    """A ``Gateway`` around a gateway: a promotion that it has carried out is shown, while the loop goes on."""

    inner: Gateway
    mirror: MlflowMirror
    showing: set[asyncio.Task[bool]] = field(default_factory=set)

    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        await self.inner.ask(model, move)
        if move["to"] == State.PROMOTED:
            task = asyncio.create_task(self.mirror.show(model, move["new_version"]))
            self.showing.add(task)
            task.add_done_callback(self.showing.discard)

    async def review(self, model: str) -> Review | None:
        return await self.inner.review(model)


def mirrored(gateway: Gateway, settings: MlflowSettings | None, root: Path) -> Gateway:
    """``gateway`` itself where no registry is to be shown anything."""
    return gateway if settings is None else MirroredGateway(gateway, MlflowMirror(settings, root))
