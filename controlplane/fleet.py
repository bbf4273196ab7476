"""Model servers as one fleet: which model is served by whom, in which version, and who answers in its place.

Meets here: the policy catalogue (which models there are), the deployments (which versions), the breakers and the
fallback ladders. A model server that is down at start is told what to serve when it comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import anyio
import anyio.to_thread

from controlplane.adapter_control import ListedAdapters
from controlplane.clock import Clock
from controlplane.guarding import GuardedRows, RowGuards
from controlplane.policy import Catalogue, ModelEntry
from controlplane.pools import Pools, ReplicaView
from controlplane.resilience.breakers import Breakers, GuardedByVersion
from controlplane.resilience.cache import AnswerCache
from controlplane.resilience.ladder import FallbackLadder
from controlplane.resilience.settings import BreakerSettings
from controlplane.response_cache import CachedBackend, Parts
from controlplane.settings import OpenAiBackend, Settings, TfServingModels
from controlplane.shadow import Shadows
from controlplane.versions import AtVersion, versions_for
from inference.backend import Backend, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.settings import DeploymentSettings
from inference.tfserving.signatures import DeployedSignatures, Signature

DEPLOYMENT_CHECK_S = 5.0
DEPLOYMENT_RETRY_S = 0.5
log = logging.getLogger(__name__)


class Layers(Protocol):
    """What stands around a model besides its breaker and its ladder; ``controlplane.adapting`` has it."""

    def adapted(self, plain: Mapping[str, Backend]) -> Mapping[str, Backend]: ...
    def queued(self, model: str, backend: Backend) -> Backend: ...


class Bare:
    """No layers."""

    def adapted(self, plain: Mapping[str, Backend]) -> Mapping[str, Backend]:
        return plain

    def queued(self, model: str, backend: Backend) -> Backend:  # noqa: ARG002  the shape of every layer
        return backend


class Fleet:
    """``catalogue`` may answer with another object after a reload of policy; ladders follow it."""

    def __init__(
        self, settings: Settings, catalogue: Callable[[], Catalogue], clock: Clock, layers: Layers | None = None
    ) -> None:
        self._settings, self._catalogue, self._clock = settings, catalogue, clock
        self._layers = layers or Bare()
        self.breakers = Breakers(self._breaker_settings, clock.monotonic)
        self.deployments: dict[str, Deployment] = {}
        self.shadows = Shadows(settings.shadow, wall_clock=clock.wall)
        self.guards = RowGuards(settings.guard)
        self.pools = Pools(ListedAdapters(catalogue).of)
        self._servers: list[TfServingBackend] = []
        self._guarded: dict[str, Backend] = {}
        self._signatures: dict[str, DeployedSignatures] = {}
        for name, each in settings.backends.items():
            self._add(name, each)
        self._cache = AnswerCache(settings.fallback)
        self.answers: Parts | None = None  # set before the first call; None: nothing is saved
        self._ladders: dict[str, Backend] = {}
        self._ladders_of: Catalogue | None = None

    def names(self) -> Collection[str]:
        """The models that policy knows and a configured server serves."""
        return [name for name, entry in self._catalogue().models.items() if entry.backend in self._guarded]

    def ladder_of(self, name: str) -> Backend | None:
        catalogue = self._catalogue()
        if catalogue is not self._ladders_of:
            self._ladders, self._ladders_of = self._build(catalogue.models), catalogue
        return self._ladders.get(name)

    def deployment_of(self, model: str) -> Deployment | None:
        """That of the backend which the catalogue names, or of whoever serves a model that is not in the catalogue."""
        name = self._deployed_by(model)
        return None if name is None else self.deployments[name]

    def version_meant(self, model: str, version: int | None, label: str | None) -> int:
        """The version that a call names or implies just now; 0 when it cannot be told."""
        deployment = self.deployment_of(model)
        try:
            return version or (deployment.resolve(model, None, label) if deployment else 0)
        except BackendError:
            return 0

    def first_version(self, request: BackendRequest) -> int:
        """The version that a request is sent to first. Raises ``BackendError`` when it cannot be told."""
        deployment = self.deployment_of(request.target)
        served = None if deployment is None else deployment.served(request.target)
        if deployment is None or served is None:
            raise BackendUnavailable("not_deployed", f"no server has been told yet to serve {request.target}")
        return versions_for(deployment, request, served)[0]

    def identities(self) -> Mapping[str, str]:
        """Of the backends without versions: words that change when something else is served there."""
        backends = self._settings.backends
        return {n: f"{b.base_url} {b.served_model}" for n, b in backends.items() if isinstance(b, OpenAiBackend)}

    def known(self, model: str, version: int | None = None, label: str | None = None) -> Mapping[str, Signature] | None:
        """The signatures of a deployed model, so far as they have been learnt. A call asks no server anything."""
        name = self._deployed_by(model)
        return None if name is None else self._signatures[name].known(model, version, label)

    async def learn(self, model: str) -> None:
        """Ask for the signatures of what was loaded just now. Nothing waits for the answer: calls go on without it."""
        name = self._deployed_by(model)
        if name is not None:
            await self._learn(name)

    async def keep_deployed(self) -> None:
        """Until cancelled: every model server serves what its deployment remembers, also after it was restarted."""
        async with anyio.create_task_group() as tasks:
            for name, deployment in self.deployments.items():
                for replica in deployment.replicas:
                    tasks.start_soon(self._keep, name, replica)

    def replicas(self) -> list[ReplicaView]:
        """Every server of every backend, as it is just now."""
        entries = self._catalogue().models.values()
        return list(self.pools.views(lambda backend: [one.name for one in entries if one.backend == backend]))

    async def aclose(self) -> None:
        await self.pools.aclose()
        for server in self._servers:
            await server.aclose()

    def _deployed_by(self, model: str) -> str | None:
        """The name of the backend whose deployment has ``model``."""
        entry = self._catalogue().models.get(model)
        if entry is not None:
            named = self.deployments.get(entry.backend)
            return entry.backend if named is not None and named.serves(model) else None
        return next((name for name, each in self.deployments.items() if each.serves(model)), None)

    def _add(self, name: str, each: OpenAiBackend | TfServingModels) -> None:
        if isinstance(each, OpenAiBackend):
            pool = self.pools.of_openai(name, each)
            self._guarded[name] = GuardedByVersion(pool, self.breakers, self._clock.monotonic)
            return
        servers = {one: TfServingBackend(each.model_copy(update={"target": one})) for one in each.all_targets()}
        self._servers += servers.values()
        file = self._settings.state / f"deployment-{name}.json"
        deployment = self.deployments[name] = Deployment(
            DeploymentSettings(file=file, models=each.models), servers, self._clock.monotonic
        )
        signatures = self._signatures[name] = DeployedSignatures(deployment)
        pool = self.pools.of_tfserving(name, each, servers, deployment)
        guarded = GuardedByVersion(pool, self.breakers, self._clock.monotonic)
        rows = GuardedRows(guarded, self.guards, self._has_fallback) if self._settings.guard.models else guarded
        self._guarded[name] = AtVersion(rows, deployment, signatures, self.shadows)

    def _build(self, models: Mapping[str, ModelEntry]) -> dict[str, Backend]:
        """From the outside in: saved answers, the line before a busy server, the ladder, the lighter tier, versions."""
        plain = {name: self._guarded[e.backend] for name, e in models.items() if e.backend in self._guarded}
        rungs, primaries = {name: models[name].fallback for name in plain}, self._layers.adapted(plain)
        parts = self._cache, self._settings.fallback, self._clock.monotonic, self.breakers.is_held
        ladders = {
            name: self._layers.queued(name, FallbackLadder(primary, rungs, primaries, *parts))
            for name, primary in primaries.items()
        }
        answers = self.answers
        return ladders if answers is None else {name: CachedBackend(each, answers) for name, each in ladders.items()}

    def _has_fallback(self, model: str) -> bool:
        entry = self._catalogue().models.get(model)
        return entry is not None and any(rung in self._ladders for rung in entry.fallback)

    def _breaker_settings(self, target: str) -> BreakerSettings:
        """A chat is slow by its first token, a prediction by its answer."""
        entry = self._catalogue().models.get(target)
        backend = self._settings.backends.get(entry.backend) if entry else None
        if isinstance(backend, OpenAiBackend):
            return self._settings.breaker.model_copy(update={"slow_call_s": backend.slow_first_token_s})
        return self._settings.breaker

    async def _keep(self, name: str, replica: str) -> None:
        deployment, complained = self.deployments[name], False
        while True:
            pause_s = DEPLOYMENT_CHECK_S
            try:
                await deployment.attend(replica)
                complained = False
            except (BackendError, DeploymentError) as error:
                if not complained:
                    said = {"backend": name, "replica": replica, "cause": str(error)}
                    log.warning("model server is not as it should be", extra=said)
                complained = True
                pause_s = DEPLOYMENT_RETRY_S if isinstance(error, BackendError) else DEPLOYMENT_CHECK_S
            except Exception:
                log.exception("keeping a model server deployed broke; trying again", extra={"backend": name})
            await self._learn(name)
            with anyio.move_on_after(pause_s):
                await deployment.replicas[replica].wait_lost()

    async def _learn(self, name: str) -> None:
        """What a version says of itself must not end the gateway."""
        try:
            await self._signatures[name].learn()
        except BackendError as error:
            log.info("signatures are not known yet", extra={"backend": name, "cause": str(error)})
        except Exception:
            log.exception("learning signatures broke; trying again", extra={"backend": name})
        if self._settings.guard.models:
            await anyio.to_thread.run_sync(self._learn_references, name)

    def _learn_references(self, name: str) -> None:
        backend = self._settings.backends[name]
        bases = backend.models if isinstance(backend, TfServingModels) else {}
        for model, served in self.deployments[name].models.items():
            for version in served.versions:
                self.guards.learn(model, version, bases.get(model, ""))
