"""The response cache wired: which version it may speak for, where it keeps answers, and who is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from controlplane.clock import Clock
from controlplane.policy import Catalogue
from controlplane.resilience.breakers import Breakers
from controlplane.response_cache import MemoryStore, Parts, ResponseCacheSettings
from controlplane.response_cache.cached import SharedStore, VersionOf
from controlplane.telemetry.metrics import Metrics
from inference.backend import BackendRequest
from inference.errors import BackendError

SECRET_BYTES = 32


class Versions(Protocol):
    """``inference.tfserving.deployment.Deployment``, as far as it is asked here."""

    def resolve(self, model: str, version: int | None = None, label: str | None = None) -> int: ...


@dataclass(frozen=True, slots=True)
class VersionSpokenFor:
    """``VersionOf`` of the response cache.

    ``deployment_of`` gives who knows a model's versions, None for a server without versions. ``first_version`` is the
    one that a request is sent to first (its agent may be one who tries a canary). ``identity_of`` are words about a
    backend that change when it serves something else under the same name. A version or model that somebody holds
    (``Breakers.hold``: distrusted, or under repair) is spoken for by nobody.
    """

    deployment_of: Callable[[str], Versions | None]
    first_version: Callable[[BackendRequest], int]
    catalogue: Callable[[], Catalogue]
    identity_of: Mapping[str, str]
    breakers: Breakers

    def __call__(self, request: BackendRequest) -> str | None:
        if self.deployment_of(request.target) is None:
            return self._of_a_server_without_versions(request.target)
        try:
            version = self.first_version(request)
        except BackendError:
            return None
        return None if self.breakers.of(request.target, version).holds else str(version)

    def _of_a_server_without_versions(self, model: str) -> str | None:
        entry = self.catalogue().model(model)
        identity = None if entry is None else self.identity_of.get(entry.backend)
        if not identity or self.breakers.of(model).holds:
            return None
        return f"served by {identity}"


def cache_parts(
    settings: ResponseCacheSettings,
    version_of: VersionOf,
    metrics: Metrics,
    clock: Clock,
    *,
    secret: bytes | None = None,
    shared: SharedStore | None = None,
) -> Parts:
    """``secret`` is needed when ``shared`` is; without it one of this process alone is made."""
    if shared is not None and secret is None:
        raise ValueError("what is shared needs the secret that all gateways know")
    return Parts(
        settings=settings,
        secret=secret or os.urandom(SECRET_BYTES),
        memory=MemoryStore(settings.memory_bytes, settings.memory_entries),
        version_of=version_of,
        wall=clock.wall,
        monotonic=clock.monotonic,
        shared=shared,
        told=metrics.observe_response_cache,
    )
