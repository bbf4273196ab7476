"""What a human says of a model that labels have proved wrong. The monitor reads it and makes the move that follows.

Asking for it is a resource of its own: whoever may move models, as the monitor may, must not answer its own question.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.problems import DESCRIBED
from controlplane.console.review_views import ReviewControl
from controlplane.console.wishes import Change, Recorded, principal_of, recorded

READ, WRITE = "/api/models", "/api/reviews"


class Answer(Change):
    answer: Literal["healthy", "fallback", "retrain"] = Field(
        description="It is good as it is; let the fallback answer; or train again, with as many attempts as before."
    )


class Said(BaseModel):
    """``id`` is empty while nobody has said anything."""

    id: str = ""
    answer: str = ""
    by: str = ""
    reason: str = ""


class ReviewsApi:
    def __init__(self, reviews: ReviewControl) -> None:
        self.reviews = reviews

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["models"])
        path = f"{WRITE}/{{name:path}}"  # /api/models/<one>/<two> is a model's page at the hub's door
        router.add_api_route(path, self.read_review, methods=["GET"], openapi_extra=permission("read", READ))
        router.add_api_route(path, self.answer_review, methods=["POST"], openapi_extra=permission("write", WRITE))
        return router

    async def read_review(self, name: str) -> Said:
        """What was last said of a model since labels proved it wrong."""
        found = self.reviews.review_of(name)
        return Said() if found is None else Said(id=found.id, answer=found.answer, by=found.by, reason=found.reason)

    async def answer_review(self, request: Request, name: str, said: Answer) -> Recorded:
        """Say what shall become of a model that labels proved wrong. Recorded; the monitor acts on it."""
        by = principal_of(request)
        return recorded(await self.reviews.review(name, said.answer, by, said.reason, said.key))
