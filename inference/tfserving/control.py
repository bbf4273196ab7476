"""What one model server is told to serve, and what it says that it serves.

Errors of a reload come in its answer. A version that is missing on the server's disk is never mentioned by it, and one
that was unloaded before is END until the server has looked at its disk again; so both get a moment before they count as
refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from inference.errors import BackendRejected, BackendTimeout
from inference.tfserving import wire
from inference.tfserving.served import Served
from inference.tfserving.wire import State

Models = Mapping[str, Served]
COMING = frozenset({State.START, State.LOADING})


class ModelServer(Protocol):
    """``TfServingBackend``, as far as a deployment needs it."""

    async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes: ...


class DeploymentError(Exception):
    """The server did not do what it was told; ``reason`` is a stable word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class VersionStatus:
    version: int
    state: State
    error: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """``load_s`` is for a version to be available, ``appear_s`` for it to be heard of, ``answer_s`` for one answer."""

    load_s: float = 30.0
    answer_s: float = 5.0
    appear_s: float = 2.0
    poll_s: float = 0.1
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Any] = anyio.sleep


@dataclass(slots=True)
class Wait:
    """Versions that are not available yet, and those that the server has begun to load since it was told."""

    missing: set[int]
    before: Mapping[int, VersionStatus]
    began_s: float
    coming: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Control:
    server: ModelServer
    patience: Patience

    async def tell(self, models: Models) -> None:
        """Replace the server's whole configuration. Raises ``BackendError`` or ``DeploymentError``."""
        answer = await self.server.call(wire.RELOAD, reload_request(models), self.patience.load_s)
        status = _parsed(wire.ReloadConfigResponse, answer).status
        if status.error_code:
            raise DeploymentError("reload_refused", status.error_message)

    async def status_of(self, model: str) -> tuple[VersionStatus, ...]:
        """Newest version first; () for a model it does not know. Raises ``BackendError`` or ``DeploymentError``."""
        request = wire.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = await self.server.call("GetModelStatus", request.SerializeToString(), self.patience.answer_s)
        except BackendRejected as error:
            if error.reason == "not_found":
                return ()
            raise
        told = _parsed(wire.GetModelStatusResponse, answer).model_version_status
        return tuple(VersionStatus(one.version, _state(one.state), one.status.error_message) for one in told)

    async def available_of(self, model: str) -> frozenset[int]:
        return available_in(await self.status_of(model))

    async def await_available(
        self, model: str, versions: Collection[int], before: Collection[VersionStatus] = ()
    ) -> None:
        """``before`` is what it said before it was told. Raises ``BackendError`` or ``DeploymentError``."""
        wait = Wait(set(versions), {one.version: one for one in before}, self.patience.monotonic())
        while wait.missing:
            try:
                self._judge(model, await self.status_of(model), wait)
            except BackendTimeout:  # loading may keep it from answering
                if self._waited_s(wait) >= self.patience.load_s:
                    raise
            if wait.missing:
                await self.patience.sleep(self.patience.poll_s)

    def _judge(self, model: str, told: Collection[VersionStatus], wait: Wait) -> None:
        """Take out of ``wait.missing`` what has come. Raises ``DeploymentError`` for what never will."""
        by_number, waited_s = {one.version: one for one in told}, self._waited_s(wait)
        for number in sorted(wait.missing):
            one = by_number.get(number)
            if one is not None and one.state is State.AVAILABLE:
                wait.missing.discard(number)
            elif one is not None and one.state in COMING:
                wait.coming.add(number)
            elif one is not None and one.error and (number in wait.coming or one != wait.before.get(number)):
                raise DeploymentError("load_failed", f"version {number} of {model}: {one.error}")
            elif number in wait.coming or waited_s >= self.patience.appear_s:
                error = one.error if one is not None and one.error else "the server does not have it"
                raise DeploymentError("no_such_version", f"version {number} of {model}: {error}")
        if wait.missing and waited_s >= self.patience.load_s:
            raise DeploymentError("load_timeout", f"versions {sorted(wait.missing)} of {model} are not available")

    def _waited_s(self, wait: Wait) -> float:
        return self.patience.monotonic() - wait.began_s


def available_in(told: Collection[VersionStatus]) -> frozenset[int]:
    return frozenset(one.version for one in told if one.state is State.AVAILABLE)


def reload_request(models: Models) -> bytes:
    request = wire.ReloadConfigRequest()
    request.config.CopyFrom(server_config(models))
    return bytes(request.SerializeToString())


def server_config(models: Models) -> Any:
    """A ``ModelServerConfig``. A model without versions is left out: a server would wait for its first one for ever."""
    config = wire.ModelServerConfig()
    config.model_config_list.SetInParent()
    for name, one in sorted(models.items()):
        if not one.versions:
            continue
        entry = config.model_config_list.config.add(name=name, base_path=one.base_path, model_platform="tensorflow")
        entry.model_version_policy.specific.versions.extend(one.versions)
        for label, version in sorted(one.labels.items()):
            entry.version_labels[label] = version
    return config


def _parsed(kind: Any, answer: bytes) -> Any:
    try:
        return wire.parse(kind, answer)
    except wire.WireError as error:
        raise DeploymentError("invalid_answer", str(error)) from error


def _state(number: int) -> State:
    return State(number) if number in set(State) else State.UNKNOWN
