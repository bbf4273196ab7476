"""HTTP in, HTTP out: one ASGI endpoint that every HTTP door shares. Everything between the two is ``gateway.py``.

Plain ASGI on the call path. A door says how its protocol reads a call, translates a reply and words a refusal; the
order of things, hang-ups and the release of the last byte are decided here once for all of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.calls import Call
from controlplane.gateway.gateway import Admission, Gateway, is_strict
from controlplane.gateway.hangup import HangUp
from controlplane.gateway.problems import Problem, problem_for
from inference.backend import FRESH_RUNGS, BackendReply
from inference.whole import Whole

log = logging.getLogger(__name__)

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "date",
        "server",
    }
)


NOT_THEIRS = HOP_BY_HOP | {"x-call-id", "x-audit-receipt", "x-served-by", "x-degraded", "x-cache", "age"}
"""What a reply's head never has from the backend: of one connection, or said by us (and by caches on the way to it)."""


class HttpDoor(Protocol):
    """One protocol's way in. Stateless between requests; what it parsed it may keep on ``request.state``."""

    name: str
    paths: Sequence[tuple[str, str]]
    """(HTTP method, path template) pairs, templates as Starlette writes them."""

    async def read_call(self, request: Request) -> Call:
        """Parse the request of a proven caller. Raises ``BadRequest``."""
        ...

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        """The reply in the caller's protocol; the same object when nothing has to change."""
        ...

    def refusal(self, request: Request, problem: Problem) -> Response:
        """``problem`` in the protocol's own error shape."""
        ...

    def broken(self, problem: Problem) -> bytes:
        """What tells the caller in-band that a reply it has begun to read is broken; b"" cuts the connection."""
        ...


Challenge = Callable[[Problem], str]
"""The ``WWW-Authenticate`` value that goes with a 401 (RFC 6750, RFC 9728)."""

Refused = Callable[[str, Problem], None]
"""Told of every problem by the door's name: strangers and outages never reach the ledger, and must be counted."""


@dataclass(frozen=True, slots=True)
class DoorEndpoint:
    """The ASGI application of one door."""

    door: HttpDoor
    gateway: Gateway
    challenge: Challenge
    refused: Refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Asked(scope, receive)
        async with HangUp() as gone:
            exchange = Exchange(send, gone.rest)

            async def read_call() -> Call:
                call = await self.door.read_call(request)
                gone.watch(receive)
                return call

            try:
                admission = await self.gateway.admit(credential_of(request), read_call)
                await self._relay(admission, exchange)
            except ClientDisconnect:
                return  # gone before the request was read: nothing was admitted, nobody is left to answer
            except Exception as error:
                problem = problem_for(error)
                if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                    log.exception("unforeseen error", extra={"door": self.door.name})
                await self._refuse(request, problem, exchange)

    async def _relay(self, admission: Admission, exchange: Exchange) -> None:
        """Send the reply; the last byte of a call with effects leaves only when its outcome is durable."""
        strict = is_strict(admission.call)
        async with self.gateway.relay(admission) as raw:
            reply = self.door.translate(admission, raw)
            if isinstance(reply.chunks, Whole):
                await exchange.start(reply.status, reply_headers(admission, reply))
                last = reply.chunks.take()
            else:
                last = await self._pass_on(admission, reply, exchange)
            if not strict:
                await exchange.end(last)
        if strict:
            await exchange.end(last)

    async def _pass_on(self, admission: Admission, reply: BackendReply, exchange: Exchange) -> bytes:
        """Send what comes as it comes; of a call with effects all but its last chunk, which is returned."""
        strict, held = is_strict(admission.call), b""
        async with aclosing(reply.chunks) as chunks:
            if not admission.call.streams:  # what breaks before its first byte can still be answered with a status
                held = await anext(chunks, b"")
            await exchange.start(reply.status, reply_headers(admission, reply))
            if held and not strict:
                await exchange.body(held)
                held = b""
            async for chunk in chunks:
                ready, held = (held, chunk) if strict else (chunk, b"")
                if ready:
                    await exchange.body(ready)
        return held

    async def _refuse(self, request: Request, problem: Problem, exchange: Exchange) -> None:
        self.refused(self.door.name, problem)
        if exchange.started:
            await exchange.break_off(self.door.broken(problem))
            return
        response = self.door.refusal(request, problem)
        if problem.status == HTTPStatus.UNAUTHORIZED:
            response.headers["www-authenticate"] = self.challenge(problem)
        if problem.retry_after_s is not None:
            response.headers["retry-after"] = str(math.ceil(problem.retry_after_s))
        if problem.receipt is not None:
            response.headers["x-audit-receipt"] = f"{problem.receipt.index} {problem.receipt.event_id}"
        await exchange.answer(response)


class Asked(Request):
    """A request whose body, mostly one message, is read without a generator."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            message = await self.receive()
            pieces = [_piece(message)]
            while message.get("more_body", False):
                message = await self.receive()
                pieces.append(_piece(message))
            self._body = b"".join(pieces)
        return self._body


def _piece(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    piece: bytes = message.get("body", b"")
    return piece


class Broken(Exception):
    """A reply that cannot be finished: the server must cut the connection, so that nobody takes it for whole."""


class Exchange:
    """One HTTP response being written; knows whether it has begun and whether it has ended."""

    __slots__ = ("before_end", "ended", "send", "started")

    def __init__(self, send: Send, before_end: Callable[[], None]) -> None:
        self.send, self.before_end, self.started, self.ended = send, before_end, False, False

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None]:
        self.started = True
        return self.send({"type": "http.response.start", "status": status, "headers": headers})

    def body(self, chunk: bytes) -> Awaitable[None]:
        return self.send({"type": "http.response.body", "body": chunk, "more_body": True})

    def end(self, last: bytes = b"") -> Awaitable[None]:
        self.ended = True
        self.before_end()
        return self.send({"type": "http.response.body", "body": last, "more_body": False})

    async def answer(self, response: Response) -> None:
        await self.start(response.status_code, response.raw_headers)
        await self.end(bytes(response.body))

    async def break_off(self, last_words: bytes) -> None:
        if self.ended:
            return
        if not last_words:
            raise Broken
        await self.end(last_words)


def header_fields(request: Request) -> dict[bytes, bytes]:
    """By name; of a repeated one the first counts. Starlette's ``Headers`` walk the whole list for each name."""
    return dict(reversed(request.scope["headers"]))


def credential_of(request: Request) -> str:
    """The bearer token, "" when there is none. Anthropic's SDK sends it as ``x-api-key``."""
    fields = header_fields(request)
    authorization = fields.get(b"authorization", b"").decode("latin-1")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return "" if authorization else fields.get(b"x-api-key", b"").decode("latin-1")


def reply_headers(admission: Admission, reply: BackendReply) -> list[tuple[bytes, bytes]]:
    """The backend's own headers, and ours: the receipt, who answered, on which rung."""
    headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in reply.headers if n.lower() not in NOT_THEIRS]
    index, event_id = admission.receipt.index, admission.receipt.event_id.encode()
    headers += [(b"x-call-id", event_id), (b"x-audit-receipt", b"%d %b" % (index, event_id))]
    if reply.served_by:
        headers.append((b"x-served-by", reply.served_by.encode("latin-1", "replace")))
    if reply.rung not in FRESH_RUNGS:
        headers.append((b"x-degraded", reply.rung.encode()))
    if reply.age_s is not None:  # RFC 9111 §5.1
        headers += [(b"age", str(reply.age_s).encode()), (b"x-cache", b"hit" if reply.rung == "cached" else b"stale")]
    return headers


class FixedPaths:
    """Paths of doors without parameters, found by one look in front of all routing; ``others`` has what is not found.

    Hands on what answers instead of awaiting it: on every call, and one layer less to wake up through.
    """

    def __init__(self, routes: Iterable[Route], others: ASGIApp) -> None:
        fixed = [route for route in routes if "{" not in route.path]
        self.others = others
        self.endpoints = {(method, route.path): route.endpoint for route in fixed for method in route.methods or ()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        found = self.endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        return (found or self.others)(scope, receive, send)


def routes(doors: Iterable[HttpDoor], gateway: Gateway, challenge: Challenge, refused: Refused) -> list[Route]:
    """Every door at each of its paths; where two doors have the same one, the first."""
    found: dict[tuple[str, str], DoorEndpoint] = {}
    for door in doors:
        for each in door.paths:
            found.setdefault(each, DoorEndpoint(door, gateway, challenge, refused))
    return [Route(path, endpoint, methods=[method]) for (method, path), endpoint in found.items()]
