"""The web pages: rendered here, readable without scripts, every word of a stranger escaped.

A script of ours replaces the panels of an open page as they change; it has nothing of its own to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from anyio import to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from audit import AuditUnavailable, LedgerHead
from controlplane.calls import Principal
from controlplane.console.calls import CallHistory, CallView
from controlplane.console.changes import HOLD, Changes, Wish
from controlplane.console.guard import Guard, require_same_site
from controlplane.console.ports import ConsoleError, ConsolePorts, NotAllowed, NotFound, NotProven, Unavailable
from controlplane.console.problems import problem_response
from controlplane.console.sessions import Session
from controlplane.console.settings import ConsoleSettings

Endpoint = Callable[[Request], Awaitable[Response]]
READ = ("read", "/api/console")
STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
}
MAX_FORM_BYTES = 65_536
MIN_REASON = 3
GOOD, BUSY, BAD = "good", "busy", "bad"
TONES = {
    **dict.fromkeys(("closed", "ok", "allow", "HEALTHY", "PROMOTED"), GOOD),
    **dict.fromkeys(("half_open", "running", "cancelled", "LEARNING", "RETRAINING", "SHADOW", "CANARY", "WARN"), BUSY),
    **dict.fromkeys(("open", "held", "error", "timeout", "deny", "unknown", "DEGRADED", "DATA_FAULT"), BAD),
}
"""How a state looks; what is not listed looks like nothing in particular."""


@dataclass(frozen=True, slots=True)
class Visitor:
    session: Session
    principal: Principal


class Pages:
    def __init__(
        self,
        ports: ConsolePorts,
        changes: Changes,
        guard: Guard,
        settings: ConsoleSettings,
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._ports, self._changes, self._sessions = ports, changes, guard.sessions
        self._settings, self._describe, self._history = settings, describe, CallHistory(ports.ledger)
        self._templates = Environment(
            loader=PackageLoader("controlplane.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {"clock": clock, "day": day, "ms": milliseconds, "tone": tone}
        folder = files("controlplane.console") / "static"
        self._static = {name: (folder / name).read_bytes() for name in STATIC}

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/console", self.overview),
            Route("/console/panels", self.panels),
            Route("/console/login", self.login_form, methods=["GET"]),
            Route("/console/login", self.login, methods=["POST"]),
            Route("/console/logout", self._readable(self.logout), methods=["POST"]),
            Route("/console/calls/{call_id}", self._readable(self.call)),
            Route("/console/breakers/{name:path}/hold", self._readable(self.hold), methods=["POST"]),
            Route("/console/breakers/{name:path}/release", self._readable(self.release), methods=["POST"]),
            Route("/console/static/{name}", self.static),
            Route("/api/docs", self.docs),
        ]

    def _readable(self, endpoint: Endpoint) -> Endpoint:
        """A refusal as a page, for it is a person who asked."""

        async def answered(request: Request) -> Response:
            try:
                return await endpoint(request)
            except (ConsoleError, AuditUnavailable) as error:
                status = problem_response(error).status_code
                detail = error.detail if isinstance(error, ConsoleError) else "not recorded, therefore not done"
                return self._page(request, "problem.html", None, status, detail=detail, reason=error.reason)

        return answered

    async def overview(self, request: Request) -> Response:
        try:
            visitor = await self._visitor(request)
        except ConsoleError as error:
            return self._sign_in(request, error)
        return self._page(request, "overview.html", visitor, **await self._facts(visitor))

    async def panels(self, request: Request) -> Response:
        """The changing part of the overview; 304 while it is what the reader has."""
        visitor = await self._visitor(request)
        response = self._page(request, "panels.html", visitor, **await self._facts(visitor))
        etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return response

    async def call(self, request: Request) -> Response:
        try:
            visitor = await self._visitor(request)
        except ConsoleError as error:
            return self._sign_in(request, error)
        call_id = request.path_params["call_id"]
        found = await to_thread.run_sync(
            lambda: self._history.find(call_id, lambda tenant: self._ports.sees(visitor.principal, tenant))
        )
        if found is None:
            raise NotFound("unknown_call", "no such call that you may see")
        return self._page(request, "call.html", visitor, call=found)

    async def login_form(self, request: Request) -> Response:
        return self._page(request, "login.html", None, problem="")

    async def login(self, request: Request) -> Response:
        try:
            require_same_site(request, None, "")
            credential = (await form_of(request)).get("token", "").strip()
            await self._ports.authorize(credential, *READ)
        except ConsoleError as error:
            return self._sign_in(request, error)
        response = RedirectResponse(self._path(request, "/console"), 303)
        self._sessions.open(credential, response)
        return response

    async def logout(self, request: Request) -> Response:
        session = self._sessions.find(request)
        if session is not None:
            require_same_site(request, session, (await form_of(request)).get("csrf", ""))
        response = RedirectResponse(self._path(request, "/console/login"), 303)
        self._sessions.close(request, response)
        return response

    async def hold(self, request: Request) -> Response:
        return await self._change(request, self._changes.hold)

    async def release(self, request: Request) -> Response:
        return await self._change(request, self._changes.release)

    async def docs(self, request: Request) -> Response:
        """The API's own description, readable; it says nothing that the source does not."""
        return self._page(request, "docs.html", None, api=self._describe())

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise NotFound("unknown_file")
        return Response(self._static[name], media_type=STATIC[name], headers={"cache-control": "max-age=300"})

    async def _change(self, request: Request, change: Callable[[str, Wish], Any]) -> Response:
        session = self._sessions.find(request)
        if session is None:
            raise NotProven("no_session")
        principal = await self._ports.authorize(session.credential, "write", "/api/breakers")
        form = await form_of(request)
        require_same_site(request, session, form.get("csrf", ""))
        reason = form.get("reason", "").strip()[:500]
        if len(reason) < MIN_REASON:
            raise NotAllowed("no_reason", "say why; the reason is kept in the ledger")
        name = request.path_params["name"]
        if name not in {each.name for each in self._ports.breakers.snapshot()}:
            raise NotFound("unknown_breaker", "no such breaker")
        await change(name, Wish(principal, reason))
        return RedirectResponse(self._path(request, "/console"), 303)

    async def _visitor(self, request: Request) -> Visitor:
        session = self._sessions.find(request)
        if session is None:
            raise NotProven("no_session", "")
        return Visitor(session, await self._ports.authorize(session.credential, *READ))

    async def _facts(self, visitor: Visitor) -> dict[str, Any]:
        """What the overview shows. A ledger that cannot be read leaves its panels empty, and says so."""
        calls: list[CallView] = []
        head, trouble = None, ""
        try:
            calls, head = await to_thread.run_sync(lambda: self._from_ledger(visitor.principal))
        except AuditUnavailable as error:
            trouble = error.reason
        return {
            "calls": calls,
            "head": head,
            "trouble": trouble,
            "breakers": self._ports.breakers.snapshot(),
            "models": self._ports.models.view(),
            "policy": self._ports.policy_status(),
            "hold_word": HOLD,
        }

    def _from_ledger(self, principal: Principal) -> tuple[list[CallView], LedgerHead]:
        page = self._history.page(lambda tenant: self._ports.sees(principal, tenant), self._settings.calls_shown)
        return list(page.calls), self._ports.ledger.head()

    def _sign_in(self, request: Request, error: ConsoleError) -> Response:
        if isinstance(error, NotProven) and error.reason == "no_session" and request.method == "GET":
            return RedirectResponse(self._path(request, "/console/login"), 303)
        status = 503 if isinstance(error, Unavailable) else 403 if isinstance(error, NotAllowed) else 401
        return self._page(request, "login.html", None, status=status, problem=f"{error.detail} ({error.reason})")

    def _page(
        self, request: Request, name: str, visitor: Visitor | None, status: int = 200, **facts: Any
    ) -> HTMLResponse:
        text = self._templates.get_template(name).render(
            root=self._path(request, ""),
            csrf=visitor.session.csrf if visitor else "",
            principal=visitor.principal if visitor else None,
            refresh_ms=self._settings.refresh_ms,
            **facts,
        )
        return HTMLResponse(text, status)

    def _path(self, request: Request, path: str) -> str:
        """``path`` below wherever a proxy has put us."""
        return str(request.scope.get("root_path", "")).rstrip("/") + path


async def form_of(request: Request) -> dict[str, str]:
    """A small urlencoded form. Raises ``NotAllowed`` for anything else."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise NotAllowed("form_too_large")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise NotAllowed("malformed_form") from None


def tone(state: str) -> str:
    return TONES.get(str(state), "")


def clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%H:%M:%S")


def day(time_ms: float) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def milliseconds(microseconds: int) -> str:
    value = microseconds / 1000
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004  three digits are enough
