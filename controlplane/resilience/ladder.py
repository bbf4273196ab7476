"""The fallback ladder, a backend like any other: primary → remembered answer → lighter model → the primary's refusal.

Which rungs a model has is data (``fallback: ["cache", "risk-baseline"]``). A call falls only while nothing of a reply
has been lent out, never because the request itself is wrong, and never when the caller has left. The reply says which
rung it is. All rungs share one deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from msgspec.structs import replace

from controlplane.resilience.cache import AnswerCache, CachedAnswer, cache_key
from controlplane.resilience.deadline import Deadline
from controlplane.resilience.settings import FallbackSettings
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendRejected
from inference.whole import Whole

CACHE_RUNG = "cache"
DISTRUSTED = frozenset({"breaker_held", "rows_out_of_range"})
"""Reasons of a refusal because somebody distrusts the model itself, or it with such rows: what it said before is worth
no more."""


@dataclass(frozen=True, slots=True)
class Descent:
    """One call on its way down."""

    request: BackendRequest
    rungs: Sequence[str]
    key: bytes | None  # in the cache; None when this call's answer is none to remember
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class FallbackLadder:
    """``rungs`` maps a model to what may answer for it, in order: ``cache`` or the name of a model in ``lighter``.

    A lighter backend is sent the same body under its own name as ``target``, without version or label, and MUST make
    the body fit its model. It wants a breaker of its own. ``distrusts`` says of a version by its name (``risk/2``) that
    somebody holds it: what it answered before is not given again, whichever version is asked now.
    """

    primary: Backend
    rungs: Mapping[str, Sequence[str]]
    lighter: Mapping[str, Backend]
    cache: AnswerCache
    settings: FallbackSettings
    now: Callable[[], float]
    distrusts: Callable[[str], bool] = lambda _served_by: False

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``. What it raises is the primary's error, whatever the rungs below had to say."""
        rungs = self.rungs.get(request.target, ())
        if not rungs:
            return self.primary.send(request)
        key = cache_key(request) if CACHE_RUNG in rungs else None
        return self._descend(Descent(request, rungs, key, Deadline.after(request.timeout_s, self.now())))

    @asynccontextmanager
    async def _descend(self, descent: Descent) -> AsyncGenerator[BackendReply]:
        async with AsyncExitStack() as stack:
            yield await self._first_that_answers(descent, stack)

    async def _first_that_answers(self, descent: Descent, stack: AsyncExitStack) -> BackendReply:
        try:
            asked = self._within(descent, is_last=set(descent.rungs) == {CACHE_RUNG})
            reply = await stack.enter_async_context(self.primary.send(asked))
        except BackendRejected:
            raise
        except BackendError as error:
            fallen = await self._fall(descent, error, stack)
            if fallen is None:
                raise
            return fallen
        if descent.key is None or reply.status != HTTPStatus.OK or reply.rung != "primary":
            return reply
        remembering = aclosing(self._remembering(reply, descent.key))
        return replace(reply, chunks=await stack.enter_async_context(remembering))

    async def _fall(self, descent: Descent, error: BackendError, stack: AsyncExitStack) -> BackendReply | None:
        for position, rung in enumerate(descent.rungs):
            if rung == CACHE_RUNG:
                reply = None if error.reason in DISTRUSTED else self._remembered(descent.key)
            else:
                asked = self._within(descent, is_last=position == len(descent.rungs) - 1)
                reply = await self._lighter(rung, asked, stack)
            if reply is not None:
                return reply
        return None

    def _remembered(self, key: bytes | None) -> BackendReply | None:
        now_s = self.now()
        answer = None if key is None else self.cache.get(key, now_s)
        if answer is None or self.distrusts(answer.served_by.partition("@")[0]):
            return None
        return BackendReply(
            status=HTTPStatus.OK,
            headers=answer.headers,
            chunks=Whole(answer.body),
            served_by=answer.served_by,
            rung=CACHE_RUNG,
            usage=replace(answer.usage),
            age_s=int(now_s - answer.stored_at_s),
        )

    async def _lighter(self, name: str, request: BackendRequest, stack: AsyncExitStack) -> BackendReply | None:
        """A reply that is an error is no answer: the lighter model may not know what the caller asks for."""
        backend = self.lighter.get(name)
        if backend is None or request.timeout_s <= 0:
            return None
        async with AsyncExitStack() as attempt:
            try:
                asked = replace(request, target=name, version=None, label=None)
                reply = await attempt.enter_async_context(backend.send(asked))
            except BackendError:
                return None
            if reply.status >= HTTPStatus.BAD_REQUEST:
                return None
            stack.push_async_exit(attempt.pop_all())
            return replace(reply, rung="lighter", served_by=reply.served_by or name)

    def _within(self, descent: Descent, *, is_last: bool) -> BackendRequest:
        """The request with the time that this rung may take. A stream may take it all: it has its own patience for the
        first byte, and once it has begun nobody comes after it."""
        request = descent.request
        reserve_ratio = 0.0 if is_last or request.streams else self.settings.reserve_ratio
        return replace(request, timeout_s=descent.deadline.remaining_s(self.now(), reserve_ratio=reserve_ratio))

    async def _remembering(self, reply: BackendReply, key: bytes) -> AsyncGenerator[bytes]:
        """The reply as it is; remembered only when its last byte has come."""
        body, fits = bytearray(), True
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                fits = fits and self.cache.has_room_for(len(body) + len(chunk))
                if fits:
                    body += chunk
                yield chunk
        if fits:
            answer = CachedAnswer(reply.headers, bytes(body), reply.served_by, self.now(), replace(reply.usage))
            self.cache.put(key, answer)
