"""Which versions of which models the model servers shall serve, and which version each label names.

TF Serving replaces its whole configuration at each reload and cannot say what it is, so it is kept here, in one JSON
file, and always sent whole, to every replica of the backend. A change holds when every replica that can be reached
serves it; one that cannot is lost, gets no calls, and is told when it is back. A label moves only onto a version that
the servers say is AVAILABLE. Every operation may be repeated: what holds already is not done again. What fails leaves
file and servers as they were.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from inference.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.savedmodel.reader import versions as versions_in
from inference.tfserving.control import (
    Control,
    DeploymentError,
    Models,
    ModelServer,
    Patience,
    VersionStatus,
    available_in,
)
from inference.tfserving.replica import Replica, ReplicaStatus
from inference.tfserving.served import CANARY, Served, Shadow, served_from
from inference.tfserving.settings import DeploymentSettings

__all__ = ["Deployment", "DeploymentError", "ModelServer", "Served", "VersionStatus"]


class Deployment:
    """``servers`` are the replicas of one backend by name; all of them shall serve the same."""

    def __init__(
        self,
        settings: DeploymentSettings,
        servers: Mapping[str, ModelServer],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = anyio.sleep,
    ) -> None:
        self._settings, self._monotonic, self._sleep = settings, monotonic, sleep
        timeouts = settings.timeout_s, settings.answer_s, settings.appear_s, settings.poll_s
        patience = Patience(*timeouts, monotonic, sleep)
        self._replicas = {name: Replica(name, Control(server, patience)) for name, server in servers.items()}
        self._models: Models = self._remembered()
        self._changing = anyio.Lock()
        self._running: Counter[tuple[str, int]] = Counter()

    @property
    def models(self) -> Models:
        return dict(self._models)

    @property
    def replicas(self) -> Mapping[str, Replica]:
        return dict(self._replicas)

    def serves(self, model: str) -> bool:
        return model in self._models

    def served(self, model: str) -> Served | None:
        return self._models.get(model)

    def resolve(self, model: str, version: int | None = None, label: str | None = None) -> int:
        """The version that answers a call; without version and label, the default label's.

        Raises ``BackendRejected`` in TF Serving's words when there is none, or it is on trial.
        """
        served = self._models.get(model)
        if version:  # 0 is "whatever is served"
            if served is None or version not in served.versions or served.is_on_trial(version):
                raise BackendRejected("not_found", f"Servable not found for request: Specific({model}, {version})")
            return version
        name = label or self._settings.default_label
        if served is not None and name in served.labels:
            return served.labels[name]
        if served is None or label is None:
            raise BackendRejected("not_found", f"Servable not found for request: Latest({model})")
        raise BackendRejected("invalid_argument", f"Unrecognized servable version label: {label}")

    def server_with(self, model: str, version: int) -> ModelServer | None:
        """Some replica's server that serves this version."""
        return next((each.control.server for each in self._replicas.values() if each.serves(model, version)), None)

    def serves_at(self, replica: str, model: str, version: int | None) -> bool:
        """Whether calls for this version may be sent to that replica."""
        return self._replicas[replica].serves(model, version)

    def replica_statuses(self) -> list[ReplicaStatus]:
        return [each.status() for each in self._replicas.values()]

    @contextmanager
    def using(self, model: str, version: int) -> Generator[None]:
        """While this is open, ``unload`` of that version waits."""
        self._running[model, version] += 1
        try:
            yield
        finally:
            self._running[model, version] -= 1

    def running(self, model: str, version: int | None = None) -> int:
        """Calls under way to one version of a model, or to all."""
        if version is not None:
            return self._running[model, version]
        return sum(count for (name, _), count in self._running.items() if name == model)

    async def start(self) -> None:
        """Bring every replica that can be reached to what is remembered.

        Raises ``BackendError`` or ``DeploymentError`` when none is as it should be.
        """
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            for name in self._replicas:
                tasks.start_soon(_gathering, errors, partial(self.attend, name))
        if len(errors) == len(self._replicas):
            raise errors[0]

    async def attend(self, name: str) -> None:
        """See that a replica serves what it should, and tell it if not. To be called again and again.

        Raises ``BackendError`` when it cannot be reached, ``DeploymentError`` when some model is not as it should be;
        the other models are. Calls go only to versions that it is known to serve.
        """
        replica = self._replicas[name]
        try:
            if replica.is_ready and await self._is_as_remembered(replica):
                return
            async with self._changing:
                await self._catch_up(replica)
        except BackendError:
            replica.lose()
            raise

    async def load(self, model: str, version: int) -> None:
        """Return when ``version`` is AVAILABLE beside what is served already. Labels do not move.

        Raises ``BackendError`` or ``DeploymentError``; then the servers were told to serve what they served before.
        """
        async with self._changing:
            await self._load(model, version)

    async def move_label(self, model: str, label: str, version: int) -> None:
        """Make ``label`` mean ``version``, which must be loaded. Raises ``BackendError`` or ``DeploymentError``."""
        async with self._changing:
            served = self._known(model)
            if served.labels.get(label) == version:
                return
            if version not in served.versions:
                raise DeploymentError("not_available", f"version {version} of {model} is not available; load it first")
            await self._change(model, served.with_label(label, version, self._settings.default_label), [version])

    async def set_canary(self, model: str, version: int | None, percent: int) -> None:
        """Give ``percent`` of the agents ``version``: the same agents and some more when it grows; 0 is nobody.

        Raises ``BackendError`` or ``DeploymentError``.
        """
        default = self._settings.default_label
        async with self._changing:
            served = self._known(model)
            if not percent or version is None:
                await self._change(model, replace(served, canary_percent=0))
                return
            if served.labels.get(default) == version:
                raise DeploymentError("already_stable", f"version {version} of {model} is what everybody gets")
            await self._load(model, version)
            moved = self._known(model).with_label(CANARY, version, default)
            await self._change(model, replace(moved, canary_percent=percent), [version])

    async def set_shadow(self, model: str, version: int | None, percent: int, *, on_trial: bool = False) -> None:
        """Copy ``percent`` of the calls to ``version``, which is loaded first; 0 ends it.

        Raises ``BackendError`` or ``DeploymentError``.
        """
        async with self._changing:
            shadow = Shadow(version, percent, on_trial) if percent and version is not None else None
            if shadow is not None:
                await self._load(model, shadow.version)
            await self._change(model, replace(self._known(model), shadow=shadow))

    def previous(self, model: str) -> int:
        """What ``roll_back`` would go back to. Raises ``DeploymentError``: ``no_previous``."""
        served = self._known(model)
        if not served.previous:
            raise DeploymentError("no_previous", f"there is no previous version of {model}")
        return served.previous[-1]

    async def roll_back(self, model: str, expected: int | None = None) -> int:
        """The default label back on what it named before; returns that version. It is loaded if it is not.

        Raises ``BackendError`` or ``DeploymentError``: ``no_previous``, or ``out_of_step`` when the way back no longer
        leads to ``expected``.
        """
        default = self._settings.default_label
        async with self._changing:
            version = self.previous(model)
            if expected not in (None, version):
                raise DeploymentError("out_of_step", f"the way back of {model} leads to {version}, not to {expected}")
            await self._load(model, version)
            await self._change(model, self._known(model).rolled_back(default), [version])
            return version

    async def unload(self, model: str, version: int) -> None:
        """Stop serving ``version`` after the calls that are under way. The label of a canary that is over goes with it.

        Raises ``DeploymentError`` while another label still names it, or some agents or copies go to it.
        """
        async with self._changing:
            served = self._known(model)
            if not served.canary_percent:
                served = served.without_canary_label(version)
            if uses := served.uses_of(version):
                raise DeploymentError("labelled", f"version {version} of {model} still has a {', '.join(uses)}")
            if version in served.versions:
                await self._end_serving(model, version, served.without_version(version))

    async def withdraw(self, model: str, version: int) -> None:
        """End a trial: ``version`` gets no copies, is nobody's canary, and is unloaded after the calls under way.

        It stays loaded where another label names it. Raises ``BackendError`` or ``DeploymentError``; then it may still
        be loaded, and nobody is given it.
        """
        async with self._changing:
            served = self._known(model)
            if served.without_canary(version) != served:
                served = served.without_canary(version)
                await self._change(model, served)
            unnamed = served.without_canary_label(version)
            if version in served.versions and not unnamed.uses_of(version):
                await self._end_serving(model, version, unnamed.without_version(version))

    async def status(self, name: str | None = None) -> dict[str, tuple[VersionStatus, ...]]:
        """What a replica says about each model, newest version first; () for one it does not know."""
        control = self._replicas[name or next(iter(self._replicas))].control
        return {model: await control.status_of(model) for model in self._models}

    def _known(self, model: str) -> Served:
        if model not in self._models:
            raise DeploymentError("unknown_model", f"{model} is not in the deployment's settings")
        return self._models[model]

    async def _load(self, model: str, version: int) -> None:
        served = self._known(model)
        if version not in served.versions:
            self._refuse_missing(served, version)
        await self._change(model, served.with_version(version), [version])

    def _refuse_missing(self, served: Served, version: int) -> None:
        """At once, where the versions can be seen from here; elsewhere the server's word is waited for."""
        seen = versions_in(Path(served.base_path))
        if seen and version not in seen:
            raise DeploymentError("no_such_version", f"{served.base_path} has no version {version}, only {seen}")

    async def _change(self, model: str, wanted: Served, awaited: Collection[int] = ()) -> None:
        before, after = self._models, {**self._models, model: wanted}
        if wanted == before[model] and self._is_everywhere(model, awaited):
            return
        try:
            await self._require_ready()
            if not (_looks_same(wanted, before[model]) and self._is_everywhere(model, awaited)):
                await self._tell_all(after, model, awaited)
            self._remember(after)
        except (BackendError, DeploymentError, anyio.get_cancelled_exc_class()):
            await self._restore(before)
            raise

    def _is_everywhere(self, model: str, versions: Collection[int]) -> bool:
        """Whether every replica that gets calls serves all of them."""
        ready = [each for each in self._replicas.values() if each.is_ready]
        return bool(ready) and all(each.serves(model, version) for each in ready for version in versions)

    async def _require_ready(self) -> None:
        """Some replica must be there to be told; one that was lost a moment ago may be back."""
        errors: list[Exception] = []
        if any(each.is_ready for each in self._replicas.values()):
            return
        for replica in self._replicas.values():
            await _gathering(errors, partial(self._catch_up, replica))
        if not any(each.is_ready for each in self._replicas.values()):
            raise errors[0] if errors else BackendUnavailable("not_deployed", "no replica serves anything")

    async def _tell_all(self, models: Models, model: str, awaited: Collection[int] = ()) -> None:
        """Tell every replica that gets calls, and wait for ``awaited`` on each. One that is away is told when back.

        Raises ``BackendError`` or ``DeploymentError`` when one of them refuses, or none can be reached.
        """
        ready = [each for each in self._replicas.values() if each.is_ready]
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            for replica in ready:
                tasks.start_soon(_gathering, errors, partial(self._tell, replica, models, model, awaited))
        refused = [error for error in errors if not isinstance(error, BackendUnavailable | BackendTimeout)]
        if refused or len(errors) == len(ready):
            raise (refused or errors or [BackendUnavailable("not_deployed", "no replica can be reached")])[0]

    async def _tell(self, replica: Replica, models: Models, model: str, awaited: Collection[int]) -> None:
        kept = frozenset(models[model].versions)
        try:
            before = await replica.control.status_of(model)  # one that is frozen is found out quickly
            replica.confirm_model(model, available_in(before) & kept)
            await replica.control.tell(models)
            await replica.control.await_available(model, awaited, before)
            replica.confirm_model(model, (available_in(before) | frozenset(awaited)) & kept)
        except (BackendUnavailable, BackendTimeout):
            replica.lose()
            raise

    async def _restore(self, models: Models) -> None:
        """Undo, even for a caller that has gone. A server that cannot be told is lost until ``attend`` tells it."""
        with anyio.CancelScope(shield=True):
            for replica in [each for each in self._replicas.values() if each.is_ready]:
                try:
                    with anyio.fail_after(self._settings.timeout_s):
                        await replica.control.tell(models)
                        replica.confirm(await _available(replica, models))
                except (BackendError, DeploymentError, TimeoutError):
                    replica.lose()

    async def _end_serving(self, model: str, version: int, wanted: Served) -> None:
        await self._require_ready()
        before = self._models
        self._remember({**before, model: wanted})  # from here on no call begins
        try:
            await self._drained(model, version)
            await self._tell_all(self._models, model)
        except (BackendError, DeploymentError, anyio.get_cancelled_exc_class()):
            self._remember(before)
            await self._restore(before)
            raise

    async def _drained(self, model: str, version: int) -> None:
        deadline_s = self._monotonic() + self._settings.drain_s
        while self.running(model, version) and self._monotonic() < deadline_s:
            await self._sleep(self._settings.poll_s)

    async def _is_as_remembered(self, replica: Replica) -> bool:
        """Whether every remembered version is AVAILABLE, and no model has got its first one."""
        for model, served in self._models.items():
            if served.versions and not set(served.versions) <= await replica.control.available_of(model):
                return False
            if not served.versions and versions_in(Path(served.base_path)):
                return False
        return all(replica.serves(name, version) for name, one in self._models.items() for version in one.versions)

    async def _catch_up(self, replica: Replica) -> None:
        """Tell one replica everything, unless it is fresh and serves all of it anyway."""
        control = replica.control
        told = {model: await control.status_of(model) for model in self._models}
        available = {model: available_in(one) for model, one in told.items()}
        models = {name: self._as_found(one, available[name]) for name, one in self._models.items()}
        errors = [_unpublished(name) for name, one in models.items() if not one.versions]
        lacking = [name for name, one in models.items() if not set(one.versions) <= available[name]]
        if replica.must_be_told or lacking or models != self._models:
            sent = _with_labels(models, available)
            await control.tell(sent)
            for name in lacking:
                try:
                    await control.await_available(name, models[name].versions, told[name])
                except DeploymentError as error:
                    errors.append(error)
            available = await _available(replica, models)
            if (complete := _with_labels(models, available)) != sent:
                await control.tell(complete)
        replica.confirm({name: frozenset(one.versions) & available[name] for name, one in models.items()})
        if models != self._models:
            self._remember(models)
        if errors:
            raise errors[0]

    def _as_found(self, served: Served, available: Collection[int]) -> Served:
        """A model seen for the first time is taken as the server, or else the disk, has it: its newest version."""
        found = available or versions_in(Path(served.base_path))
        if served.versions or not found:
            return served
        return served.with_version(max(found)).with_label(self._settings.default_label, max(found))

    def _remembered(self) -> dict[str, Served]:
        """What the file says, for the models and base paths that the settings name."""
        try:
            stored = json.loads(self._settings.file.read_text("utf-8"))
        except FileNotFoundError:
            stored = {}
        return {name: served_from(path, stored.get(name, {})) for name, path in self._settings.models.items()}

    def _remember(self, models: Models) -> None:
        """Durable on return: a reader sees the old file or the new one."""
        try:
            _write(self._settings.file, {name: one.as_json() for name, one in models.items()})
        except OSError as error:
            raise DeploymentError("not_remembered", f"{self._settings.file}: {error}") from error
        self._models = dict(models)


async def _gathering(errors: list[Exception], act: Callable[[], Awaitable[None]]) -> None:
    try:
        await act()
    except (BackendError, DeploymentError) as error:
        errors.append(error)


async def _available(replica: Replica, models: Models) -> dict[str, frozenset[int]]:
    return {name: await replica.control.available_of(name) & frozenset(one.versions) for name, one in models.items()}


def _looks_same(one: Served, other: Served) -> bool:
    """Whether a server would be told the same of both; canary shares and shadows are the gateway's alone."""
    return (one.versions, one.labels) == (other.versions, other.labels)


def _unpublished(model: str) -> DeploymentError:
    return DeploymentError("not_available", f"the server has no version of {model}; publish one first")


def _with_labels(models: Models, available: Mapping[str, Collection[int]]) -> dict[str, Served]:
    """The models with only those labels that the server can take now."""
    return {
        name: replace(one, labels={label: n for label, n in one.labels.items() if n in available[name]})
        for name, one in models.items()
    }


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")  # one name, so that failed attempts do not pile up
    with draft.open("w", encoding="utf-8") as out:
        out.write(json.dumps(document, indent=2, sort_keys=True))
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
