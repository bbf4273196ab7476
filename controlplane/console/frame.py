"""What every page has in common: who looks at it, how it is rendered, and how a person is told no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from audit import AuditUnavailable
from controlplane.calls import Principal
from controlplane.console import words
from controlplane.console.changes import Wish
from controlplane.console.guard import Guard, require_same_site
from controlplane.console.ports import Authorize, ConsoleError, NotAllowed, NotProven, Unavailable
from controlplane.console.problems import problem_response
from controlplane.console.sessions import Session
from controlplane.console.settings import ConsoleSettings

Endpoint = Callable[[Request], Awaitable[Response]]
READ = ("read", "/api/console")
MAX_FORM_BYTES = 65_536
MIN_REASON = 3


@dataclass(frozen=True, slots=True)
class Visitor:
    session: Session
    principal: Principal


class Frame:
    """``links`` are the pages of this console, for the head of each: path below ``/console`` and title."""

    def __init__(
        self, authorize: Authorize, guard: Guard, settings: ConsoleSettings, links: Mapping[str, str] | None = None
    ) -> None:
        self._authorize, self.sessions, self._settings = authorize, guard.sessions, settings
        self._templates = Environment(
            loader=PackageLoader("controlplane.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= words.FILTERS
        self._links = links or {}

    def readable(self, endpoint: Endpoint) -> Endpoint:
        """A refusal as a page, for it is a person who asked; and a way to sign in for whoever has not."""

        async def answered(request: Request) -> Response:
            try:
                return await endpoint(request)
            except NotProven as error:
                if request.method == "GET":
                    return self.sign_in(request, error)
                return self._refusal(request, error)
            except (ConsoleError, AuditUnavailable) as error:
                return self._refusal(request, error)

        return answered

    def _refusal(self, request: Request, error: ConsoleError | AuditUnavailable) -> Response:
        status = problem_response(error).status_code
        detail = error.detail if isinstance(error, ConsoleError) else "not recorded, therefore not done"
        return self.page(request, "problem.html", None, status, detail=detail, reason=error.reason)

    async def visitor(self, request: Request, *resources: str) -> Visitor:
        """Who may read the console, and each of ``resources`` besides.

        Raises ``NotProven``, ``NotAllowed`` or ``Unavailable``.
        """
        session = self._session(request)
        principal = await self._authorize(session.credential, *READ)
        for resource in resources:
            principal = await self._authorize(session.credential, "read", resource)
        return Visitor(session, principal)

    async def may(self, visitor: Visitor, *actions: str, resource: str) -> bool:
        """Whether a visitor may do all of ``actions`` as well. Raises ``NotProven`` or ``Unavailable``."""
        try:
            for action in actions:
                await self._authorize(visitor.session.credential, action, resource)
        except NotAllowed:
            return False
        return True

    def _session(self, request: Request) -> Session:
        session = self.sessions.find(request)
        if session is None:
            raise NotProven("no_session", "")
        return session

    async def wish(self, request: Request, action: str, resource: str) -> tuple[Wish, dict[str, str]]:
        """A change that a form asks for, with its reason, and the form's fields.

        Raises what ``visitor`` raises, and ``NotAllowed`` for a form from elsewhere, of yesterday, or without a reason.
        """
        session = self._session(request)
        principal = await self._authorize(session.credential, action, resource)
        form = await form_of(request)
        require_same_site(request, session, form.get("csrf", ""))
        reason = form.get("reason", "").strip()[:500]
        if len(reason) < MIN_REASON:
            raise NotAllowed("no_reason", "say why; the reason is kept in the ledger")
        return Wish(principal, reason), form

    def sign_in(self, request: Request, error: ConsoleError) -> Response:
        if isinstance(error, NotProven) and error.reason == "no_session" and request.method == "GET":
            return RedirectResponse(self.path(request, "/console/login"), 303)
        status = 503 if isinstance(error, Unavailable) else 403 if isinstance(error, NotAllowed) else 401
        return self.page(request, "login.html", None, status=status, problem=f"{error.detail} ({error.reason})")

    def page(
        self, request: Request, name: str, visitor: Visitor | None, status: int = 200, **facts: Any
    ) -> HTMLResponse:
        below = request.scope["path"].removeprefix(str(request.scope.get("root_path", "")))
        text = self._templates.get_template(name).render(
            root=self.path(request, ""),
            here=below,
            links=self._links if visitor else {},
            csrf=visitor.session.csrf if visitor else "",
            principal=visitor.principal if visitor else None,
            refresh_ms=self._settings.refresh_ms,
            **facts,
        )
        return HTMLResponse(text, status)

    def to(self, request: Request, path: str) -> Response:
        return RedirectResponse(self.path(request, path), 303)

    def path(self, request: Request, path: str) -> str:
        """``path`` below wherever a proxy has put us."""
        return str(request.scope.get("root_path", "")).rstrip("/") + path


async def form_of(request: Request) -> dict[str, str]:
    """A small urlencoded form. Raises ``NotAllowed`` for anything else."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise NotAllowed("form_too_large", f"a form has at most {MAX_FORM_BYTES:,} bytes")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise NotAllowed("malformed_form", "this is no form of ours") from None


def now_utc() -> datetime:
    return datetime.now(UTC)
