"""Who may pass. A route authorizes before it reads anything of a request, or the application does not start."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from controlplane.calls import Principal
from controlplane.console.ports import Authorize, NotAllowed, NotProven
from controlplane.console.sessions import Session, Sessions

PERMISSION = "x-permission"
READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Guard:
    authorize: Authorize
    sessions: Sessions

    async def admit(self, request: Request, action: str, resource: str) -> Principal:
        """The principal behind a bearer token or, without one, behind the session cookie.

        A cookie comes along with requests that foreign pages cause; a change by cookie needs the session's token too.
        Raises ``NotProven``, ``NotAllowed`` or ``Unavailable``.
        """
        credential = _bearer(request)
        if not credential and (session := self.sessions.find(request)) is not None:
            if request.method not in READING:
                require_same_site(request, session, request.headers.get("x-csrf-token", ""))
            credential = session.credential
        return await self.authorize(credential, action, resource)


def require_same_site(request: Request, session: Session | None, csrf: str) -> None:
    """Raises ``NotAllowed`` for a request that another site may have caused. Without a session its origin tells."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise NotAllowed("foreign_origin", "this request comes from another site")
    if session is not None and not session.accepts(csrf):
        raise NotAllowed("csrf", "the form is out of date; load the page again")


def permission(action: str, resource: str) -> dict[str, Any]:
    """For a route's ``openapi_extra``: what a caller must be allowed to do; also shown in the API's description."""
    return {PERMISSION: {"action": action, "resource": resource}}


class GuardedRoute(APIRoute):
    """A route that asks its permission before the framework looks at path, query or body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        needed = (self.openapi_extra or {}).get(PERMISSION)
        if needed is None:
            raise TypeError(f"{self.path} states no permission")
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            request.state.principal = await guard.admit(request, needed["action"], needed["resource"])
            return await handle(request)

        return guarded


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise NotProven("no_credential", "only bearer tokens are understood")
    return token.strip()
