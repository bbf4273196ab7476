"""Which version of a model answers a call, decided before it goes out: breaker, ledger and server mean the same one.

A call that names a version or a label gets it. Any other gets what is stable, or the canary where its agent is one of
those who try it. Who tries it depends on model and agent alone: the same agents each time, and the same and some more
when the share grows. A canary that refuses before anything was done costs its agents nothing: they get what is stable.

Inputs are held against the signature of that very version before its server is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from controlplane.shadow import Copy, Shadows
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendRejected, BackendUnavailable
from inference.tfserving.checks import Misfit, check_request
from inference.tfserving.deployment import Deployment
from inference.tfserving.served import CANARY, Served
from inference.tfserving.signatures import Signature
from inference.tfserving.wire import WireError

ABOUT_ALL_VERSIONS = "GetModelStatus"
COPIED = "Predict"  # the one operation that is compared
STEPS = 10_000
NOTHING_DONE = frozenset({"breaker_open", "breaker_held", "not_deployed"})
"""Reasons of a version's refusal before any server was asked."""


class Signatures(Protocol):
    def known(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Mapping[str, Signature] | None: ...


@dataclass(frozen=True, slots=True)
class AtVersion:
    """``inner`` is asked with the version, and without a label."""

    inner: Backend
    deployment: Deployment
    signatures: Signatures
    shadows: Shadows

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        """See ``Backend.send``."""
        async with AsyncExitStack() as opened:
            yield await self._first_that_answers(request, opened)

    async def _first_that_answers(self, request: BackendRequest, opened: AsyncExitStack) -> BackendReply:
        served = self.deployment.served(request.target)
        if served is None or not served.versions:
            raise BackendUnavailable("not_deployed", f"no server has been told yet to serve {request.target}")
        if request.operation == ABOUT_ALL_VERSIONS and not request.label:
            return await opened.enter_async_context(self.inner.send(request))
        *others, last = versions_for(self.deployment, request, served)
        for version in others:
            try:
                return await self._ask(request, served, version, opened)
            except BackendUnavailable as error:
                if error.reason not in NOTHING_DONE:
                    raise
        try:
            return await self._ask(request, served, last, opened)
        except BackendUnavailable as error:
            if error.reason in NOTHING_DONE:
                self._copy_unanswered(request, served, last)
            raise

    async def _ask(self, request: BackendRequest, served: Served, version: int, opened: AsyncExitStack) -> BackendReply:
        self._require_fit(request, version)
        async with AsyncExitStack() as attempt:
            attempt.enter_context(self.deployment.using(request.target, version))
            asked = replace(request, version=version, label=None)
            reply = await attempt.enter_async_context(self.inner.send(asked))
            opened.push_async_exit(attempt.pop_all())
        return self._with_copy(request, served, version, reply)

    def _require_fit(self, request: BackendRequest, version: int) -> None:
        known = self.signatures.known(request.target, version)
        if known is None:
            return  # not learnt yet: the server will say it
        try:
            check_request(request.operation, request.body, known)
        except Misfit as misfit:
            raise BackendRejected(misfit.reason, misfit.detail) from None
        except WireError as error:
            raise BackendRejected("invalid_argument", str(error)) from None

    def _with_copy(self, request: BackendRequest, served: Served, version: int, reply: BackendReply) -> BackendReply:
        copy = self._copy(request, served, version)
        if copy is None:
            return reply
        return replace(reply, chunks=self.shadows.copying(reply.chunks, copy, self.deployment.running(request.target)))

    def _copy(self, request: BackendRequest, served: Served, version: int) -> Copy | None:
        """The copy of a call that is ``version``'s, if it is one of those that are copied."""
        shadow = served.shadow
        if shadow is None or shadow.version == version or request.operation != COPIED:
            return None
        if share(request.call_id) >= shadow.percent * STEPS // 100:
            return None
        asked = replace(request, version=shadow.version, label=None)
        return Copy(self.inner, asked, version, None, shadow.on_trial)

    def _copy_unanswered(self, request: BackendRequest, served: Served, version: int) -> None:
        """A challenger is most often tried while its champion is held: else it would be shown no call at all."""
        copy = self._copy(request, served, version)
        if copy is not None and copy.on_trial:
            self.shadows.offer(copy, self.deployment.running(request.target))


def versions_for(deployment: Deployment, request: BackendRequest, served: Served) -> Sequence[int]:
    """The versions to ask, the first one first. Raises ``BackendRejected`` when there is none such."""
    stable = deployment.resolve(request.target, request.version, request.label)
    canary = served.labels.get(CANARY)
    asked_for_one = request.version or request.label
    if asked_for_one or canary is None or not tries_canary(request, served.canary_percent):
        return [stable]
    return [canary, stable]


def tries_canary(request: BackendRequest, percent: int) -> bool:
    """Nobody whom we do not know, and nobody at 0 percent."""
    if not percent or not request.agent:
        return False
    return share(f"{request.target}\0{request.tenant}\0{request.agent}") < percent * STEPS // 100


def share(key: str) -> int:
    """A place from 0 to 9999 that this key has today, tomorrow and in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % STEPS
