"""Operators and the choice of models: what was learnt for their tenant, who is under review, and clearing a review."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.ports import LearntView, SelectionControl
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Body, Reason, Recorded, recorded

RESOURCE = "/api/selection"


class LearntList(BaseModel):
    models: Sequence[LearntView]


class Clearance(Body):
    task: str = Field(max_length=64)
    model: str = Field(max_length=200)
    reason: Reason


class SelectionApi:
    def __init__(self, control: SelectionControl) -> None:
        self.control = control

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["selection"])
        router.add_api_route(
            RESOURCE, self.list_learnt, methods=["GET"], openapi_extra=permission("read", RESOURCE), name="list_learnt"
        )
        router.add_api_route(
            f"{RESOURCE}/clear",
            self.clear_review,
            methods=["POST"],
            openapi_extra=permission("write", RESOURCE),
            name="clear_review",
        )
        return router

    async def list_learnt(self, request: Request) -> LearntList:
        """Models that the choice knows, as it sees them for your tenant; those under review are not chosen."""
        return LearntList(models=self.control.view(request.state.principal))

    async def clear_review(self, request: Request, said: Clearance) -> Recorded:
        """Let a model back into the choice for your tenant."""
        receipt = await self.control.clear(said.task, said.model, request.state.principal, said.reason)
        return recorded(receipt)
