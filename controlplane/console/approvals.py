"""Calls that wait for people: what exactly would go out, who wants it, and the answer."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from controlplane.console.approval_views import ApprovalControl, QuestionShown
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Body, Reason, Recorded, principal_of, recorded

RESOURCE = "/api/approvals"


class Questions(BaseModel):
    questions: list[QuestionShown]


class Answer(Body):
    answer: Literal["approve", "refuse"]
    reason: Reason


class ApprovalsApi:
    def __init__(self, control: ApprovalControl) -> None:
        self.control = control

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["approvals"])
        may_read, may_write = permission("read", RESOURCE), permission("write", RESOURCE)
        router.add_api_route(
            RESOURCE, self.list_questions, methods=["GET"], openapi_extra=may_read, name="list_questions"
        )
        router.add_api_route(
            f"{RESOURCE}/{{question}}", self.answer, methods=["POST"], openapi_extra=may_write, name="answer_question"
        )
        return router

    async def list_questions(self, request: Request) -> Questions:
        """Calls of your tenant that wait for people, or were answered and not made yet."""
        return Questions(questions=list(self.control.questions(principal_of(request))))

    async def answer(self, request: Request, question: str, said: Answer) -> Recorded:
        """Agree to exactly this call, once, or refuse it. You must hold a role that the rule names."""
        approves = said.answer == "approve"
        return recorded(await self.control.answer(question, principal_of(request), said.reason, approves=approves))
