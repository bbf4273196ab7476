"""The overview, one call, signing in and out, breakers, the API's description.

A script of ours replaces the panels of an open page as they change; it has nothing of its own to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from audit import AuditUnavailable, LedgerHead
from controlplane.calls import Principal
from controlplane.console.approval_trace import ApprovalTrace, trace_of
from controlplane.console.approvals import RESOURCE as APPROVALS
from controlplane.console.calls import CallHistory, CallView
from controlplane.console.changes import HOLD, Changes, Wish
from controlplane.console.frame import READ, Frame, Visitor, form_of, now_utc
from controlplane.console.guard import require_same_site
from controlplane.console.ports import ConsoleError, ConsolePorts, NotFound
from controlplane.console.settings import ConsoleSettings

STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
}


class Pages:
    def __init__(
        self,
        ports: ConsolePorts,
        changes: Changes,
        frame: Frame,
        settings: ConsoleSettings,
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._ports, self._changes, self._frame = ports, changes, frame
        self._settings, self._describe, self._history = settings, describe, CallHistory(ports.ledger)
        folder = files("controlplane.console") / "static"
        self._static = {name: (folder / name).read_bytes() for name in STATIC}

    def routes(self) -> list[BaseRoute]:
        return [
            *(Route(address, self.front) for address in ("/", "/console/")),
            Route("/console", self.overview),
            Route("/console/panels", self.panels),
            Route("/console/login", self.login_form, methods=["GET"]),
            Route("/console/login", self.login, methods=["POST"]),
            Route("/console/signed-in", self.signed_in),
            Route("/console/logout", self._frame.readable(self.logout), methods=["POST"]),
            Route("/console/calls/{call_id}", self._frame.readable(self.call)),
            Route("/console/breakers/{name:path}/hold", self._frame.readable(self.hold), methods=["POST"]),
            Route("/console/breakers/{name:path}/release", self._frame.readable(self.release), methods=["POST"]),
            Route("/console/static/{name}", self.static),
            Route("/api/docs", self.docs),
        ]

    async def front(self, request: Request) -> Response:
        """What a person types first."""
        return RedirectResponse(self._frame.path(request, "/console"), 303)

    async def overview(self, request: Request) -> Response:
        try:
            visitor = await self._frame.visitor(request)
        except ConsoleError as error:
            return self._frame.sign_in(request, error)
        return self._frame.page(request, "overview.html", visitor, **await self._facts(visitor))

    async def panels(self, request: Request) -> Response:
        """The changing part of the overview; 304 while it is what the reader has."""
        visitor = await self._frame.visitor(request)
        response = self._frame.page(request, "panels.html", visitor, **await self._facts(visitor))
        etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return response

    async def call(self, request: Request) -> Response:
        try:
            visitor = await self._frame.visitor(request)
        except ConsoleError as error:
            return self._frame.sign_in(request, error)
        call_id = request.path_params["call_id"]
        found, approval = await to_thread.run_sync(lambda: self._call(call_id, visitor.principal))
        if found is None:
            raise NotFound("unknown_call", "no such call that you may see")
        now_ms = now_utc().timestamp() * 1000
        return self._frame.page(request, "call.html", visitor, call=found, approval=approval, now_ms=now_ms)

    def _call(self, call_id: str, principal: Principal) -> tuple[CallView | None, ApprovalTrace | None]:
        found = self._history.find(call_id, lambda tenant: self._ports.sees(principal, tenant))
        return found, None if found is None else trace_of(found, self._ports.ledger)

    async def login_form(self, request: Request) -> Response:
        return self._frame.page(request, "login.html", None, problem="")

    async def login(self, request: Request) -> Response:
        try:
            require_same_site(request, None, "")
            credential = (await form_of(request)).get("token", "").strip()
            await self._ports.authorize(credential, *READ)
        except ConsoleError as error:
            return self._frame.sign_in(request, error)
        response = RedirectResponse(self._frame.path(request, "/console/signed-in"), 303)
        self._frame.sessions.open(credential, response)
        return response

    async def signed_in(self, request: Request) -> Response:
        """Where signing in leads: a browser that kept no cookie is told so, and not just asked for a token again."""
        if self._frame.sessions.find(request) is not None:
            return self._frame.to(request, "/console")
        problem = "your browser kept no session cookie, which travels over https only (console.secure_cookie)"
        return self._frame.page(request, "login.html", None, status=401, problem=problem)

    async def logout(self, request: Request) -> Response:
        session = self._frame.sessions.find(request)
        if session is not None:
            require_same_site(request, session, (await form_of(request)).get("csrf", ""))
        response = RedirectResponse(self._frame.path(request, "/console/login"), 303)
        self._frame.sessions.close(request, response)
        return response

    async def hold(self, request: Request) -> Response:
        return await self._change(request, self._changes.hold)

    async def release(self, request: Request) -> Response:
        return await self._change(request, self._changes.release)

    async def docs(self, request: Request) -> Response:
        """The API's own description, readable; it says nothing that the source does not."""
        return self._frame.page(request, "docs.html", None, api=self._describe())

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise NotFound("unknown_file")
        return Response(self._static[name], media_type=STATIC[name], headers={"cache-control": "max-age=300"})

    async def _change(self, request: Request, change: Callable[[str, Wish], Any]) -> Response:
        wish, _ = await self._frame.wish(request, "write", "/api/breakers")
        name = request.path_params["name"]
        if name not in {each.name for each in self._ports.breakers.snapshot()}:
            raise NotFound("unknown_breaker", "no such breaker")
        await change(name, wish)
        return self._frame.to(request, "/console")

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
            "asked": await self._asked(visitor),
        }

    async def _asked(self, visitor: Visitor) -> int:
        """How many calls wait for this visitor's approval."""
        if self._ports.approvals is None:
            return 0
        standing = self._ports.approvals.questions(visitor.principal)
        count = sum(each.waits_for(visitor.principal.subject) for each in standing)
        return count if count and await self._frame.may(visitor, "read", "write", resource=APPROVALS) else 0

    def _from_ledger(self, principal: Principal) -> tuple[list[CallView], LedgerHead]:
        page = self._history.page(lambda tenant: self._ports.sees(principal, tenant), self._settings.calls_shown)
        return list(page.calls), self._ports.ledger.head()
