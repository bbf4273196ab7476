"""A backend behind a gate: the wait in the line is the only thing that a caller may notice.

Below the limit it costs a count up and a count down. No task, no timer and no lock until somebody really has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType

from msgspec.structs import replace

from controlplane.admission.gate import Gate, ticket_for
from controlplane.admission.line import Standing, Ticket
from inference.backend import CLIENT_ERRORS, Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendTimeout, BackendUnavailable

OVERLOADED = "overloaded"
COMPLAINTS = frozenset({"busy", "rate_limited"})
"""Reasons with which a server says that it has too much."""


@dataclass(frozen=True, slots=True)
class QueuedBackend:
    """``gate`` may stand before several backends of one server."""

    inner: Backend
    gate: Gate
    now: Callable[[], float]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``.

        Raises:
            BackendUnavailable: ``overloaded``, with the time to come back; nothing was done.
        """
        return _Passage(self, request)


class _Passage(AbstractAsyncContextManager[BackendReply]):
    """One call through the gate. A class, because a generator costs three times as much on the quiet path."""

    __slots__ = ("_entered_s", "_exchange", "_layer", "_request", "_ticket")

    def __init__(self, layer: QueuedBackend, request: BackendRequest) -> None:
        self._layer, self._request = layer, request
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> BackendReply:
        layer, request = self._layer, self._request
        gate, entered_s = layer.gate, layer.now()
        if not gate.enter(request.priority):
            request, entered_s = await self._wait(request, entered_s)
        self._entered_s = entered_s
        try:
            self._exchange = layer.inner.send(request)
            reply = await self._exchange.__aenter__()
        except BaseException as error:
            now_s = layer.now()
            if isinstance(error, BackendTimeout) or (isinstance(error, BackendError) and error.reason in COMPLAINTS):
                gate.complained(now_s)
            gate.leave(now_s - entered_s, now_s, self._ticket)
            raise
        if reply.rung == "primary" and reply.status < CLIENT_ERRORS:
            now_s = layer.now()
            gate.answered(now_s - entered_s, now_s)
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._exchange.__aexit__(kind, error, trace)
        finally:
            now_s = self._layer.now()
            self._layer.gate.leave(now_s - self._entered_s, now_s, self._ticket)

    async def _wait(self, request: BackendRequest, now_s: float) -> tuple[BackendRequest, float]:
        """Until it is this call's turn: the request with the time that is left for it, and when it went in."""
        gate, loop = self._layer.gate, asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()
        patience_s = gate.patience_s(request.timeout_s)
        ticket = ticket_for(
            (request.tenant, request.agent), request.priority, now_s + patience_s, lambda _: _finish(settled)
        )
        gate.wait(ticket, now_s)
        if ticket.standing is Standing.WAITING:
            timer = loop.call_later(patience_s, self._expire, ticket)
            try:
                await settled
            except BaseException:  # the caller hung up
                gate.abandon(ticket, self._layer.now())
                raise
            finally:
                timer.cancel()
        if ticket.standing is Standing.SHED:
            raise BackendUnavailable(OVERLOADED, f"overloaded: {ticket.cause}", retry_after_s=ticket.retry_after_s)
        entered_s = self._layer.now()
        gate.note_wait(entered_s - now_s)
        self._ticket = ticket
        return replace(request, timeout_s=request.timeout_s - (entered_s - now_s)), entered_s

    def _expire(self, ticket: Ticket) -> None:
        self._layer.gate.expire(ticket, self._layer.now())


def _finish(settled: asyncio.Future[None]) -> None:
    if not settled.done():
        settled.set_result(None)
