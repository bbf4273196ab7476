"""The inbox of calls that wait for people."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from controlplane.console.approval_views import ApprovalControl
from controlplane.console.approvals import RESOURCE
from controlplane.console.frame import Frame, now_utc
from controlplane.console.ports import NotFound

ANSWERS = {"approve": True, "refuse": False}


class ApprovalPages:
    def __init__(self, control: ApprovalControl, frame: Frame) -> None:
        self._control, self._frame = control, frame

    def routes(self) -> list[BaseRoute]:
        readable = self._frame.readable
        return [
            Route("/console/approvals", readable(self.questions)),
            Route("/console/approvals", readable(self.answer), methods=["POST"]),
        ]

    async def questions(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, RESOURCE)
        standing = self._control.questions(visitor.principal)
        can_answer = any(not each.hindrance for each in standing)
        return self._frame.page(
            request,
            "approvals.html",
            visitor,
            waiting=[each for each in standing if each.state == "waiting"],
            answered=[each for each in standing if each.state != "waiting"],
            forbidden=can_answer and not await self._frame.may(visitor, "write", resource=RESOURCE),
            now_s=now_utc().timestamp(),
        )

    async def answer(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", RESOURCE)
        approves = ANSWERS.get(form.get("answer", ""))
        if approves is None:
            raise NotFound("unknown_answer", "that is no answer to this question")
        await self._control.answer(form.get("question", ""), wish.by, wish.reason, approves=approves)
        return self._frame.to(request, "/console/approvals")
