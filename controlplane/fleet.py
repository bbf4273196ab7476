"""Model servers as one fleet: which model is served by whom, in which version, and who answers in its place.

Meets here: the policy catalogue (which models there are), the deployments (which versions), the breakers and the
fallback ladders. A model server that is down at start is told what to serve when it comes back.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from controlplane.clock import Clock
from controlplane.policy import Catalogue, ModelEntry
from controlplane.resilience.breakers import Breakers, GuardedByVersion
from controlplane.resilience.cache import AnswerCache
from controlplane.resilience.ladder import FallbackLadder
from controlplane.resilience.settings import BreakerSettings
from controlplane.settings import OpenAiBackend, Settings, TfServingModels
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.settings import DeploymentSettings
from inference.tfserving.signatures import DeployedSignatures, Signature
from inference.tfserving.wire import State
from inference.vllm import VllmBackend

DEPLOYMENT_CHECK_S = 5.0
DEPLOYMENT_RETRY_S = 0.5
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AtVersion:
    """Names the version before the call goes out, so that breaker, ledger and server mean the same one."""

    inner: Backend
    deployment: Deployment

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        served = self.deployment.models.get(request.target)
        if served is None or not served.versions:
            return _unavailable(request.target)
        if request.operation == "GetModelStatus":
            return self.inner.send(request)  # a question about all versions
        version = self.deployment.resolve(request.target, request.version, request.label)
        return self.inner.send(replace(request, version=version, label=None))


@asynccontextmanager
async def _unavailable(model: str) -> AsyncGenerator[BackendReply]:
    raise BackendUnavailable("not_deployed", f"no server has been told yet to serve {model}")
    yield  # makes this a generator


class Fleet:
    """``catalogue`` may answer with another object after a reload of policy; ladders follow it."""

    def __init__(self, settings: Settings, catalogue: Callable[[], Catalogue], clock: Clock) -> None:
        self._settings, self._catalogue, self._clock = settings, catalogue, clock
        self.breakers = Breakers(self._breaker_settings, clock.monotonic)
        self.deployments: dict[str, Deployment] = {}
        self._servers: dict[str, VllmBackend | TfServingBackend] = {}
        self._guarded: dict[str, Backend] = {}
        self._signatures: dict[int, DeployedSignatures] = {}
        for name, each in settings.backends.items():
            self._add(name, each)
        self._cache = AnswerCache(settings.fallback)
        self._ladders: dict[str, FallbackLadder] = {}
        self._ladders_of: Catalogue | None = None

    def names(self) -> Collection[str]:
        """The models that policy knows and a configured server serves."""
        return [name for name, entry in self._catalogue().models.items() if entry.backend in self._servers]

    def ladder_of(self, name: str) -> Backend | None:
        catalogue = self._catalogue()
        if catalogue is not self._ladders_of:
            self._ladders, self._ladders_of = self._build(catalogue.models), catalogue
        return self._ladders.get(name)

    def deployment_of(self, model: str) -> Deployment | None:
        """That of the backend which the catalogue names, or of whoever serves a model that is not in the catalogue."""
        entry = self._catalogue().models.get(model)
        if entry is not None:
            named = self.deployments.get(entry.backend)
            return named if named is not None and named.serves(model) else None
        return next((each for each in self.deployments.values() if each.serves(model)), None)

    def version_meant(self, model: str, version: int | None, label: str | None) -> int:
        """The version that a call names or implies just now; 0 when it cannot be told."""
        deployment = self.deployment_of(model)
        try:
            return version or (deployment.resolve(model, None, label) if deployment else 0)
        except BackendError:
            return 0

    def known(self, model: str, version: int | None = None, label: str | None = None) -> Mapping[str, Signature] | None:
        """The signatures of a deployed model, so far as they have been learnt. A call asks no server anything."""
        deployment = self.deployment_of(model)
        if deployment is None:
            return None
        return self._signatures[id(deployment)].known(model, version, label)

    async def keep_deployed(self) -> None:
        """Until cancelled: every model server serves what its deployment remembers, also after it was restarted."""
        async with anyio.create_task_group() as tasks:
            for name, deployment in self.deployments.items():
                tasks.start_soon(self._keep, name, deployment)

    async def aclose(self) -> None:
        for server in self._servers.values():
            await server.aclose()

    def _add(self, name: str, each: OpenAiBackend | TfServingModels) -> None:
        if isinstance(each, OpenAiBackend):
            chat = self._servers[name] = VllmBackend(each)
            self._guarded[name] = GuardedByVersion(chat, self.breakers, self._clock.monotonic)
            return
        server = self._servers[name] = TfServingBackend(each)
        file = self._settings.state / f"deployment-{name}.json"
        deployment = self.deployments[name] = Deployment(
            DeploymentSettings(file=file, models=each.models), server, self._clock.monotonic
        )
        self._signatures[id(deployment)] = DeployedSignatures(deployment, server)
        guarded = GuardedByVersion(server, self.breakers, self._clock.monotonic)
        self._guarded[name] = AtVersion(guarded, deployment)

    def _build(self, models: Mapping[str, ModelEntry]) -> dict[str, FallbackLadder]:
        primaries = {name: self._guarded[e.backend] for name, e in models.items() if e.backend in self._guarded}
        rungs = {name: models[name].fallback for name in primaries}
        return {
            name: FallbackLadder(primary, rungs, primaries, self._cache, self._settings.fallback, self._clock.monotonic)
            for name, primary in primaries.items()
        }

    def _breaker_settings(self, target: str) -> BreakerSettings:
        """A chat is slow by its first token, a prediction by its answer."""
        entry = self._catalogue().models.get(target)
        backend = self._settings.backends.get(entry.backend) if entry else None
        if isinstance(backend, OpenAiBackend):
            return self._settings.breaker.model_copy(update={"slow_call_s": backend.slow_first_token_s})
        return self._settings.breaker

    async def _keep(self, name: str, deployment: Deployment) -> None:
        complained = False
        while True:
            try:
                if not await _is_served(deployment):
                    await deployment.start()
                    log.info("model server serves what it should", extra={"backend": name})
                await self._signatures[id(deployment)].learn()
                complained, pause_s = False, DEPLOYMENT_CHECK_S
            except (BackendError, DeploymentError) as error:
                if not complained:
                    log.warning("model server is not ready", extra={"backend": name, "cause": str(error)})
                complained, pause_s = True, DEPLOYMENT_RETRY_S
            except Exception:
                log.exception("keeping a model server deployed broke; trying again", extra={"backend": name})
                pause_s = DEPLOYMENT_CHECK_S
            await anyio.sleep(pause_s)


async def _is_served(deployment: Deployment) -> bool:
    """Whether every remembered version of every model is AVAILABLE."""
    told = await deployment.status()
    for model, served in deployment.models.items():
        available = {one.version for one in told[model] if one.state is State.AVAILABLE}
        if not served.versions or not set(served.versions) <= available:
            return False
    return True
