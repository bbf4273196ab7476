"""One server of several that shall serve the same: what it is known to serve, and a backend that asks it for no more.

A replica that was away may have been restarted and serve something else. It gets no call until it was told again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendRejected, BackendUnavailable
from inference.tfserving.control import Control

NOT_DEPLOYED = "not_deployed"
UNREACHABLE = "unavailable"  # the reason of a call that found nobody; a limit or a refusal is another


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """``available`` has the versions that calls may be sent to, by model."""

    name: str
    is_ready: bool
    available: Mapping[str, frozenset[int]]


class Replica:
    def __init__(self, name: str, control: Control) -> None:
        self.name, self.control = name, control
        self.must_be_told = False
        self._available: Mapping[str, frozenset[int]] = {}
        self._lost = anyio.Event()

    @property
    def is_ready(self) -> bool:
        return any(self._available.values())

    def serves(self, model: str, version: int | None = None) -> bool:
        """Whether calls for that version may be sent here; without a version, for any of the model."""
        available = self._available.get(model)
        return bool(available) if version is None or available is None else version in available

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(self.name, self.is_ready, dict(self._available))

    def confirm(self, available: Mapping[str, frozenset[int]]) -> None:
        """It serves this, and it was told whatever it had to be told."""
        self._available = dict(available)
        self.must_be_told = False

    def confirm_model(self, model: str, versions: frozenset[int]) -> None:
        self._available = {**self._available, model: versions}

    def lose(self) -> None:
        """It could not be reached, or serves something else than we thought."""
        if self.is_ready:
            self._lost.set()
        self._available = {}
        self.must_be_told = True

    async def wait_lost(self) -> None:
        """Return when it is lost the next time, or was since the last waiting."""
        await self._lost.wait()
        self._lost = anyio.Event()


@dataclass(frozen=True, slots=True)
class ReplicaBackend:
    """``inner`` for those versions that ``replica`` serves. For the others nothing is done: ask another replica."""

    inner: Backend
    replica: Replica

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        """See ``Backend.send``. ``not_deployed`` if it does not serve that version, ``unavailable`` if it was away."""
        if not self.replica.serves(request.target, request.version):
            raise self._refusal(request)
        try:
            async with self.inner.send(request) as reply:
                yield reply
        except BackendUnavailable as error:
            if error.reason == UNREACHABLE:
                self.replica.lose()
            raise
        except BackendRejected as error:
            if not _is_missing(error, request):
                raise
            self.replica.lose()  # it was restarted behind our back
            raise self._refusal(request) from error

    def _refusal(self, request: BackendRequest) -> BackendUnavailable:
        if self.replica.must_be_told:
            return BackendUnavailable(UNREACHABLE, "the model server was away and has not been told yet what to serve")
        wanted = request.target if request.version is None else f"{request.target}/{request.version}"
        return BackendUnavailable(NOT_DEPLOYED, f"this model server does not serve {wanted}")


def _is_missing(error: BackendRejected, request: BackendRequest) -> bool:
    words = f"Servable not found for request: Specific({request.target}, {request.version})"
    return request.version is not None and error.reason == "not_found" and error.detail.startswith(words)
