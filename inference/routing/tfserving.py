"""What a pool of TensorFlow Servings needs: a probe, and one hand that deploys to all of them.

GetModelStatus is answered by a server's front, so it finds a server that is gone. A warm-up Predict, where there is
one, finds one that no longer computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from inference.errors import BackendBroke, BackendError, BackendRejected, BackendUnavailable
from inference.tfserving import wire
from inference.tfserving.wire import State

Rpc = Callable[[str, bytes, float], Awaitable[bytes]]
"""``TfServingBackend.call``: operation, message, seconds."""

STATUS = "GetModelStatus"
TIMEOUT_S = 60.0  # whoever probes is less patient


class StatusProbe:
    """A ``Probe`` for one server. ``model`` is one that it should know; ``warm_up`` is a serialized PredictRequest."""

    def __init__(self, rpc: Rpc, model: str, warm_up: bytes = b"") -> None:
        self._rpc, self._warm_up = rpc, warm_up
        self._question = wire.GetModelStatusRequest()
        self._question.model_spec.name = model

    async def __call__(self) -> None:
        await self._rpc(STATUS, self._question.SerializeToString(), TIMEOUT_S)
        if self._warm_up:
            await self._rpc("Predict", self._warm_up, TIMEOUT_S)


class EveryServer:
    """Several servers as the one that a ``Deployment`` tells what to serve. Servers that are down are passed over.

    A version is AVAILABLE when every server that can be reached has it, so a label moves only where all can follow. A
    server that comes back without it makes the deployment incomplete, which is what starts it again.
    """

    def __init__(self, servers: Mapping[str, Rpc]) -> None:
        self._servers = dict(servers)
        self._available: dict[tuple[str, str], frozenset[int]] = {}

    def serves(self, server: str, target: str, version: int | None) -> bool:
        """Whether ``server`` was last seen with the version AVAILABLE; True of what nobody has asked it yet."""
        seen = self._available.get((server, target))
        return seen is None or (bool(seen) if version is None else version in seen)

    async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
        """To all of them. The answer is the first one's, unless one refuses; of a status, what holds for all.

        Raises ``BackendError`` when none can be reached, or one that can refuses.
        """
        told = await asyncio.gather(*(self._told(one, operation, body, timeout_s) for one in self._servers))
        answers = dict(zip(self._servers, told, strict=True))
        if operation == STATUS:
            return self._common(body, answers)
        refusals = [one for one in told if isinstance(one, BackendError) and not isinstance(one, BackendUnavailable)]
        if refusals:
            raise refusals[0]
        reached = [one for one in told if isinstance(one, bytes)]
        if not reached:
            raise next(one for one in told if isinstance(one, BackendError))
        return next((one for one in reached if operation == wire.RELOAD and _refuses(one)), reached[0])

    async def _told(self, server: str, operation: str, body: bytes, timeout_s: float) -> bytes | BackendError:
        try:
            return await self._servers[server](operation, body, timeout_s)
        except BackendError as error:
            return error

    def _common(self, question: bytes, answers: Mapping[str, bytes | BackendError]) -> bytes:
        model = _parsed(wire.GetModelStatusRequest, question).model_spec.name
        statuses, failure = [], None
        for server, answer in answers.items():
            if isinstance(answer, BackendRejected):
                self._available[server, model] = frozenset()
                statuses.append(wire.GetModelStatusResponse())
            elif isinstance(answer, BackendError):
                failure = answer
            else:
                status = _parsed(wire.GetModelStatusResponse, answer)
                self._available[server, model] = _available(status)
                statuses.append(status)
        if not statuses and failure is not None:
            raise failure
        everywhere = frozenset.intersection(*(_available(status) for status in statuses))
        merged = max(statuses, key=lambda status: len(status.model_version_status))
        for one in merged.model_version_status:
            if one.state == State.AVAILABLE and one.version not in everywhere:
                one.state = int(State.LOADING)
        return bytes(merged.SerializeToString())


def _available(status: Any) -> frozenset[int]:
    return frozenset(one.version for one in status.model_version_status if one.state == State.AVAILABLE)


def _refuses(answer: bytes) -> bool:
    return bool(_parsed(wire.ReloadConfigResponse, answer).status.error_code)


def _parsed(kind: Any, body: bytes) -> Any:
    try:
        return wire.parse(kind, body)
    except wire.WireError as error:
        raise BackendBroke("invalid_answer", str(error)) from error
