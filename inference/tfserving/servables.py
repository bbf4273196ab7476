"""Which models, versions and labels the embedded server serves: TF Serving's rules for picking and replacing them.

Knows files and graphs, no sockets. Every refusal carries TF Serving's own status code and words, because clients and
operators already know them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from inference.savedmodel.reader import SavedModelError, load, versions
from inference.savedmodel.runtime import UnsupportedModel
from inference.tfserving.signatures import Signature, signature_of
from inference.tfserving.tensors import Array
from inference.tfserving.wire import State, label_of, version_of

log = logging.getLogger(__name__)


class Code(IntEnum):
    """The gRPC status codes this server answers with (google.rpc.Code)."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class ServingError(Exception):
    """A refusal in TF Serving's words."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Runnable(Protocol):
    """A loaded model of whatever runtime; ``signatures`` maps names to ``SignatureDef`` messages."""

    @property
    def signatures(self) -> Mapping[str, Any]: ...
    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Raises ``GraphError`` or ``UnsupportedModel``."""
        ...


Files = tuple[tuple[str, int, int], ...]
"""Path, size and time of change of what lies in a version's directory."""

Runtime = Callable[[Path], Runnable]
"""A version directory → a model that runs. Raises ``SavedModelError`` or ``UnsupportedModel``."""


@dataclass(slots=True)
class Version:
    number: int
    state: State = State.START
    model: Runnable | None = None
    error: str = ""
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    files: Files = ()  # of one that would not load

    @property
    def runnable(self) -> Runnable:
        """Raises ``ServingError`` when it is not there."""
        if self.model is None:
            raise ServingError(Code.INTERNAL, f"version {self.number} is not loaded")
        return self.model


@dataclass(slots=True)
class Servable:
    """One model: where its versions lie, which are wanted, which are there."""

    name: str
    base: Path
    wanted: Callable[[list[int]], list[int]]
    runtime: Runtime = load
    versions: dict[int, Version] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def available(self) -> list[int]:
        return sorted(n for n, version in self.versions.items() if version.state is State.AVAILABLE)

    def refresh(self) -> None:
        """Load what is wanted and new, then unload what is not wanted: there is always something to serve.

        A version that would not load is tried again when its files have changed: it may have been half copied. While
        nothing that is wanted can be served, what was served before stays.
        """
        present = {number: self._tried(number) for number in self.wanted(versions(self.base))}
        if present and not any(version.state is State.AVAILABLE for version in present.values()):
            present |= {number: self.versions[number] for number in self.available()}
        self.versions = present  # as a whole: other threads may be reading

    def _tried(self, number: int) -> Version:
        known = self.versions.get(number)
        if known is not None and (known.model is not None or known.files == _files_in(self.base / str(number))):
            return known
        return self._load(number)

    def _load(self, number: int) -> Version:
        directory = self.base / str(number)
        files = _files_in(directory)
        try:
            model = self.runtime(directory)
        except (SavedModelError, UnsupportedModel) as error:
            log.warning("version not loaded: %s: %s", directory, error)
            return Version(number, State.END, error=str(error), files=files)
        signatures = {name: signature_of(definition) for name, definition in model.signatures.items()}
        return Version(number, State.AVAILABLE, model, signatures=signatures)

    def pick(self, spec: Any) -> int:
        """The available version that ``spec`` means. Raises ``ServingError``."""
        number, label = version_of(spec), label_of(spec)
        if label is not None:
            if label not in self.labels:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            number = self.labels[label]
        available = self.available()
        if number is None and available:
            number = available[-1]
        if number not in available:
            raise not_found(self.name, number)
        return number


class Servables:
    """All models of one server. Changed by one thread at a time; any number may ask meanwhile."""

    def __init__(self, runtime: Runtime = load) -> None:
        self._runtime = runtime
        self._models: dict[str, Servable] = {}

    def serve_latest(self, models: Mapping[str, Path]) -> None:
        """Serve the newest version of each model, and newer ones as they appear."""
        for name, base in models.items():
            self._models[name] = Servable(name, base, _latest(1), self._runtime)
        self.refresh()

    def refresh(self) -> None:
        for servable in self._models.values():
            servable.refresh()

    def find(self, spec: Any) -> Version:
        """Raises ``ServingError``."""
        if not spec.name:
            raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        servable = self._models.get(spec.name)
        if servable is None:
            raise not_found(spec.name, version_of(spec))
        number = servable.pick(spec)
        version = servable.versions.get(number)
        if version is None:  # unloaded between the two lines, by another thread
            raise not_found(spec.name, number)
        return version

    def status(self, spec: Any) -> list[Version]:
        """The versions ``spec`` asks about, newest first. Raises ``ServingError``."""
        servable = self._models.get(spec.name)
        if servable is None or not servable.versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        number, label = version_of(spec), label_of(spec)
        if label is not None:
            if label not in servable.labels:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            number = servable.labels[label]
        if number is not None and number not in servable.versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
        chosen = servable.versions if number is None else [number]
        return [servable.versions[one] for one in sorted(chosen, reverse=True)]

    def replace(self, configs: Iterable[Any]) -> None:
        """Make the server serve exactly ``configs`` (``ModelConfig`` messages). Raises ``ServingError``.

        A label may only name a version that is AVAILABLE already; a model that is new here is loaded first. Unlike
        TF Serving, a refused configuration changes nothing at all.
        """
        planned: dict[str, Servable] = {}
        for config in configs:
            if not config.name or config.name in planned:
                raise ServingError(Code.INVALID_ARGUMENT, f"model name {config.name!r} is missing or comes twice")
            planned[config.name] = self._planned(config)
        for name, servable in planned.items():
            if name in self._models:
                self._check_labels(servable, self._models[name].available())
        for name, servable in planned.items():
            servable.refresh()
            if name not in self._models:
                self._check_labels(servable, servable.available())
        self._models = planned

    def _planned(self, config: Any) -> Servable:
        base = Path(config.base_path)
        present = self._models.get(config.name)
        kept = dict(present.versions) if present is not None and present.base == base else {}
        return Servable(config.name, base, _policy(config), self._runtime, kept, dict(config.version_labels))

    def _check_labels(self, servable: Servable, available: list[int]) -> None:
        wanted = servable.wanted(versions(servable.base))
        for number in servable.labels.values():
            if number not in available or number not in wanted:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {number} of model {servable.name}, "
                    "which is not currently available for inference",
                )


def _files_in(directory: Path) -> Files:
    try:
        found = [(path, path.stat()) for path in sorted(directory.rglob("*"))]
    except OSError:  # somebody is at it
        return ()
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)


def not_found(name: str, number: int | None) -> ServingError:
    wanted = f"Latest({name})" if number is None else f"Specific({name}, {number})"
    return ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")


def _policy(config: Any) -> Callable[[list[int]], list[int]]:
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return lambda present: present
        case "specific":
            chosen = set(policy.specific.versions)
            return lambda present: [number for number in present if number in chosen]
        case _:
            return _latest(policy.latest.num_versions or 1)


def _latest(count: int) -> Callable[[list[int]], list[int]]:
    return lambda present: present[-count:]
