"""Which versions of which models the model server shall serve, and which version each label names.

TF Serving replaces its whole configuration at each reload and cannot say what it is, so it is kept here, in one JSON
file, and always sent whole. A label moves only onto a version that the server says is AVAILABLE. Every operation may be
repeated: what holds already is not done again. What fails leaves file and server as they were.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import anyio

from inference.errors import BackendError, BackendRejected
from inference.tfserving import wire
from inference.tfserving.settings import DeploymentSettings
from inference.tfserving.wire import State


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
class Served:
    """One model as it shall be: base path as the server sees it, versions ascending, label → version."""

    base_path: str
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


class Deployment:
    def __init__(
        self,
        settings: DeploymentSettings,
        server: ModelServer,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = anyio.sleep,
    ) -> None:
        self._settings, self._server, self._monotonic, self._sleep = settings, server, monotonic, sleep
        self._models = self._remembered()
        self._changing = anyio.Lock()

    @property
    def models(self) -> Mapping[str, Served]:
        return dict(self._models)

    def serves(self, model: str) -> bool:
        return model in self._models

    def resolve(self, model: str, version: int | None = None, label: str | None = None) -> int:
        """The version that answers a call; without version and label, the default label's.

        Raises ``BackendRejected`` in TF Serving's words when there is none.
        """
        served = self._models.get(model)
        if version is not None:
            if served is None or version not in served.versions:
                raise BackendRejected("not_found", f"Servable not found for request: Specific({model}, {version})")
            return version
        name = label or self._settings.default_label
        if served is not None and name in served.labels:
            return served.labels[name]
        if served is None or label is None:
            raise BackendRejected("not_found", f"Servable not found for request: Latest({model})")
        raise BackendRejected("invalid_argument", f"Unrecognized servable version label: {label}")

    async def start(self) -> None:
        """Bring the server to what is remembered; a model seen for the first time is taken as the server has it.

        Raises ``BackendError`` or ``DeploymentError``.
        """
        async with self._changing:
            models = dict(self._models)
            for name, served in models.items():
                if not served.versions:
                    models[name] = await self._as_found(name, served)
            await self._send(_with_labels(models, await self._available(models)))
            for name, served in models.items():
                await self._await_available(name, served.versions)
            await self._send(models)
            self._remember(models)

    async def load(self, model: str, version: int) -> None:
        """Return when ``version`` is AVAILABLE beside what is served already. Labels do not move.

        Raises ``BackendError`` or ``DeploymentError``; then the server was told to serve what it served before.
        """
        async with self._changing:
            served = self._known(model)
            wanted = replace(served, versions=tuple(sorted({*served.versions, version})))
            if wanted == served and version in await self._available_of(model):
                return
            await self._change(model, wanted, [version])

    async def move_label(self, model: str, label: str, version: int) -> None:
        """Make ``label`` mean ``version``, which must be loaded. Raises ``BackendError`` or ``DeploymentError``."""
        async with self._changing:
            served = self._known(model)
            if served.labels.get(label) == version:
                return
            if version not in served.versions or version not in await self._available_of(model):
                raise DeploymentError("not_available", f"version {version} of {model} is not available; load it first")
            await self._change(model, replace(served, labels={**served.labels, label: version}))

    async def unload(self, model: str, version: int) -> None:
        """Stop serving ``version``. Raises ``DeploymentError`` while a label still names it."""
        async with self._changing:
            served = self._known(model)
            if version in served.labels.values():
                raise DeploymentError("labelled", f"version {version} of {model} still has a label")
            if version in served.versions:
                kept = tuple(number for number in served.versions if number != version)
                await self._change(model, replace(served, versions=kept))

    async def status(self) -> dict[str, tuple[VersionStatus, ...]]:
        """What the server says about each model, newest version first; () for one it does not know."""
        return {model: await self._status_of(model) for model in self._models}

    def _known(self, model: str) -> Served:
        if model not in self._models:
            raise DeploymentError("unknown_model", f"{model} is not in the deployment's settings")
        return self._models[model]

    async def _as_found(self, name: str, served: Served) -> Served:
        available = await self._available_of(name)
        if not available:
            raise DeploymentError("not_available", f"the server has no version of {name}; publish one first")
        newest = max(available)
        return replace(served, versions=(newest,), labels={self._settings.default_label: newest})

    async def _change(self, model: str, wanted: Served, awaited: Iterable[int] = ()) -> None:
        before, after = self._models, {**self._models, model: wanted}
        try:
            await self._send(after)
            await self._await_available(model, awaited)
            self._remember(after)
        except (BackendError, DeploymentError, anyio.get_cancelled_exc_class()):
            await self._restore(before)
            raise

    async def _send(self, models: Mapping[str, Served]) -> None:
        answer = await self._server.call(wire.RELOAD, _reload_request(models), self._settings.timeout_s)
        status = _parsed(wire.ReloadConfigResponse, answer).status
        if status.error_code:
            raise DeploymentError("reload_refused", status.error_message)

    async def _restore(self, models: Mapping[str, Served]) -> None:
        """Undo, even for a caller that has gone; a server that is down will be told again by ``start``."""
        with anyio.move_on_after(self._settings.timeout_s, shield=True):
            try:
                await self._send(models)
            except (BackendError, DeploymentError):
                return

    async def _await_available(self, model: str, versions: Iterable[int]) -> None:
        deadline_s = self._monotonic() + self._settings.timeout_s
        missing = set(versions)
        while missing:
            told = {one.version: one for one in await self._status_of(model)}
            for number in sorted(missing):
                one = told.get(number)
                if one is not None and one.state is State.AVAILABLE:
                    missing.discard(number)
                elif one is not None and one.error:
                    raise DeploymentError("load_failed", f"version {number} of {model}: {one.error}")
            if missing:
                if self._monotonic() >= deadline_s:
                    raise DeploymentError("load_timeout", f"versions {sorted(missing)} of {model} are not available")
                await self._sleep(self._settings.poll_s)

    async def _available(self, models: Mapping[str, Served]) -> dict[str, set[int]]:
        return {model: await self._available_of(model) for model in models}

    async def _available_of(self, model: str) -> set[int]:
        return {one.version for one in await self._status_of(model) if one.state is State.AVAILABLE}

    async def _status_of(self, model: str) -> tuple[VersionStatus, ...]:
        request = wire.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = await self._server.call("GetModelStatus", request.SerializeToString(), self._settings.timeout_s)
        except BackendRejected as error:
            if error.reason == "not_found":
                return ()
            raise
        told = _parsed(wire.GetModelStatusResponse, answer).model_version_status
        return tuple(VersionStatus(one.version, _state(one.state), one.status.error_message) for one in told)

    def _remembered(self) -> dict[str, Served]:
        """What the file says, for the models and base paths that the settings name."""
        try:
            stored = json.loads(self._settings.file.read_text("utf-8"))
        except FileNotFoundError:
            stored = {}
        models = {}
        for name, base_path in self._settings.models.items():
            entry = stored.get(name, {})
            models[name] = Served(base_path, tuple(entry.get("versions", ())), dict(entry.get("labels", {})))
        return models

    def _remember(self, models: Mapping[str, Served]) -> None:
        """Durable on return: a reader sees the old file or the new one."""
        document = {name: {"versions": list(one.versions), "labels": one.labels} for name, one in models.items()}
        try:
            _write(self._settings.file, json.dumps(document, indent=2, sort_keys=True))
        except OSError as error:
            raise DeploymentError("not_remembered", f"{self._settings.file}: {error}") from error
        self._models = dict(models)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")  # one name, so that failed attempts do not pile up
    with draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def _parsed(kind: Any, answer: bytes) -> Any:
    try:
        return wire.parse(kind, answer)
    except wire.WireError as error:
        raise DeploymentError("invalid_answer", str(error)) from error


def _with_labels(models: Mapping[str, Served], available: Mapping[str, set[int]]) -> dict[str, Served]:
    """The models with only those labels that the server can take now."""
    return {
        name: replace(one, labels={label: n for label, n in one.labels.items() if n in available[name]})
        for name, one in models.items()
    }


def _reload_request(models: Mapping[str, Served]) -> bytes:
    request = wire.ReloadConfigRequest()
    configs = request.config.model_config_list
    configs.SetInParent()
    for name, one in sorted(models.items()):
        config = configs.config.add(name=name, base_path=one.base_path, model_platform="tensorflow")
        config.model_version_policy.specific.versions.extend(one.versions)
        for label, version in one.labels.items():
            config.version_labels[label] = version
    return bytes(request.SerializeToString())


def _state(number: int) -> State:
    return State(number) if number in set(State) else State.UNKNOWN
