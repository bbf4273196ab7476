"""Calls that wait for people: what exactly would go out, who wants it, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from controlplane.console.approval_views import ApprovalControl, QuestionShown
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Body, Reason, Recorded, principal_of, recorded

RESOURCE = "/api/approvals"


class Questions(BaseModel):
    questions: list[QuestionShown]
    more: int = Field(description="How many more there are than these.")


class Answer(Body):
    answer: Literal["approve", "refuse"]
    reason: Reason


def waiting_first(questions: Sequence[QuestionShown]) -> list[QuestionShown]:
    return sorted(questions, key=lambda each: each.state != "waiting")


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

    async def list_questions(self, request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Questions:
        """Calls of your tenant that wait for people, the oldest first, and then those that were answered and not made
        yet."""
        standing = waiting_first(self.control.questions(principal_of(request)))
        return Questions(questions=standing[:limit], more=max(0, len(standing) - limit))

    async def answer(self, request: Request, question: str, said: Answer) -> Recorded:
        """Agree to exactly this call, once, or refuse it. You must hold a role that the rule names."""
        approves = said.answer == "approve"
        return recorded(await self.control.answer(question, principal_of(request), said.reason, approves=approves))
