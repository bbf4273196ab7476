"""The inbox of calls that wait for people."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from controlplane.console.approval_views import ApprovalControl
from controlplane.console.approvals import RESOURCE, waiting_first
from controlplane.console.frame import Frame, now_utc
from controlplane.console.ports import NotFound

ANSWERS = {"approve": True, "refuse": False}
SHOWN = 20  # on one page: what they show may be long, and as many agents as like may ask


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
        standing = waiting_first(self._control.questions(visitor.principal))
        first = _number(request.query_params.get("from", ""), len(standing))
        shown = standing[first : first + SHOWN]
        can_answer = any(not each.hindrance for each in shown)
        return self._frame.page(
            request,
            "approvals.html",
            visitor,
            waiting=[each for each in shown if each.state == "waiting"],
            answered=[each for each in shown if each.state != "waiting"],
            first=first,
            step=SHOWN,
            count=len(standing),
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


def _number(text: str, count: int) -> int:
    """Where a page begins; the first for what is no place in the list."""
    number = int(text) if text.isdecimal() and len(text) <= len(str(count)) else 0
    return number if number < count else 0
