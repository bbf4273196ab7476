"""A model's calls as they are answered now: by itself, or for a while by one of its lighter models.

Also the place where a model's own latency and failures are noted. Both cost a look into a dictionary and two clock
readings on the quiet path.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from msgspec.structs import replace

from controlplane.adaptation.calls import ModelCalls
from inference.backend import CLIENT_ERRORS, SERVER_ERRORS, Backend, BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendTimeout, BackendUnavailable

ABOUT_THE_MODEL = frozenset({"GetModelMetadata", "GetModelStatus", "models"})
"""Operations that another model cannot answer."""

NEVER_ASKED = frozenset({"breaker_open", "breaker_held", "no_replica", "not_deployed", "closed", "credential_missing"})
"""Reasons that say nothing about how a call to the model would have gone."""


@dataclass(slots=True)
class Tiers:
    """How many tiers down each model is answered just now. ``lighter`` gives a model's lighter ones, nearest first."""

    lighter: Callable[[str], Sequence[str]]
    _steps: dict[str, int] = field(default_factory=dict)

    def set(self, model: str, steps: int) -> None:
        if steps:
            self._steps[model] = steps
        else:
            self._steps.pop(model, None)

    def of(self, model: str) -> str:
        """The model that answers in its place; "" for itself. The last tier is as far as anyone can go."""
        steps = self._steps.get(model)
        if not steps:
            return ""
        names = self.lighter(model)
        return names[min(steps, len(names)) - 1] if names else ""


@dataclass(frozen=True, slots=True)
class Adapted:
    """``lighter`` has the backends of all models by name, without ladders and without this layer around them.

    Who names a version or a label gets exactly that: a lighter model is an economy, no emergency. When the lighter
    model cannot answer, the model itself is asked with the time that is left.
    """

    inner: Backend
    lighter: Mapping[str, Backend]
    tiers: Tiers
    calls: ModelCalls
    now: Callable[[], float]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        return _Exchange(self, request)


class _Exchange(AbstractAsyncContextManager[BackendReply]):
    __slots__ = ("_layer", "_opened", "_request")

    def __init__(self, layer: Adapted, request: BackendRequest) -> None:
        self._layer, self._request = layer, request

    def __aenter__(self) -> Coroutine[Any, Any, BackendReply]:
        layer, request = self._layer, self._request
        tier = layer.tiers.of(request.target)
        if tier and tier in layer.lighter and _may_be_lighter(request):
            return self._lighter_first(request, tier)
        return self._enter(layer.inner, request)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        return self._opened.__aexit__(kind, error, trace)

    async def _lighter_first(self, request: BackendRequest, tier: str) -> BackendReply:
        layer = self._layer
        asked_s = layer.now()
        reply = await self._lighter(replace(request, target=tier))
        if reply is not None:
            return reply
        request = replace(request, timeout_s=request.timeout_s - (layer.now() - asked_s))
        if request.timeout_s <= 0:
            raise BackendTimeout("deadline")
        return await self._enter(layer.inner, request)

    async def _lighter(self, request: BackendRequest) -> BackendReply | None:
        """None when it gave no answer: a model that is only lighter may not know what the caller asks for."""
        try:
            reply = await self._enter(self._layer.lighter[request.target], request)
        except BackendError:
            return None
        if reply.status >= CLIENT_ERRORS:
            await self._opened.__aexit__(None, None, None)
            return None
        return replace(reply, rung="lighter", served_by=reply.served_by or request.target)

    async def _enter(self, backend: Backend, request: BackendRequest) -> BackendReply:
        calls, started_s = self._layer.calls, self._layer.now()
        self._opened = backend.send(request)
        try:
            reply = await self._opened.__aenter__()
        except BackendError as error:
            if is_failure(error):
                calls.failed(request.target, self._layer.now())
            raise
        now_s = self._layer.now()
        if reply.status >= SERVER_ERRORS:
            calls.failed(request.target, now_s)
        elif reply.status < CLIENT_ERRORS and request.operation not in ABOUT_THE_MODEL:
            calls.answered(request.target, now_s - started_s, now_s)
        return reply


def _may_be_lighter(request: BackendRequest) -> bool:
    return request.version is None and request.label is None and request.operation not in ABOUT_THE_MODEL


def is_failure(error: BackendError) -> bool:
    match error:
        case BackendUnavailable():
            return error.reason not in NEVER_ASKED
        case BackendTimeout() | BackendBroke():
            return True
        case _:
            return False
