"""Operators and self-healing: what each playbook answers, what it did last, and how often it may still."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel

from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.playbook_views import PlaybookShown, PlaybooksView
from controlplane.console.problems import DESCRIBED

RESOURCE = "/api/playbooks"


class PlaybookList(BaseModel):
    playbooks: Sequence[PlaybookShown]


class PlaybooksApi:
    def __init__(self, view: PlaybooksView) -> None:
        self.view = view

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["playbooks"])
        may_read = permission("read", RESOURCE)
        router.add_api_route(RESOURCE, self.list_playbooks, methods=["GET"], openapi_extra=may_read)
        return router

    async def list_playbooks(self) -> PlaybookList:
        """Playbooks of self-healing as this gateway follows them."""
        return PlaybookList(playbooks=self.view.status())
