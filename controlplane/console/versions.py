"""Operators and versions of models: loaded, labelled, tried by some, copied to on the side, rolled back, let go."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from controlplane.console.changes import Changes
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Change, Recorded, recorded, wish_of

RESOURCE = "/api/models"
Version = Annotated[int, Field(ge=1)]


class LabelMove(Change):
    label: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    version: Version


class VersionChange(Change):
    version: Version


class Share(Change):
    """What part of the agents, or of the calls, a version gets."""

    version: Version | None = Field(default=None, description="Which version; may be left out where percent is 0.")
    percent: int = Field(ge=0, le=100, description="0 ends it.")

    @model_validator(mode="after")
    def _names_a_version(self) -> Self:
        if self.percent and self.version is None:
            raise ValueError("a share needs a version")
        return self


class VersionsApi:
    def __init__(self, changes: Changes) -> None:
        self.changes = changes

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["models"])
        for word, operation in (
            ("labels", self.move_label),
            ("load", self.load_version),
            ("unload", self.unload_version),
            ("canary", self.set_canary),
            ("shadow", self.set_shadow),
            ("rollback", self.roll_back),
            ("release", self.release_version),
        ):
            router.add_api_route(
                f"{RESOURCE}/{{name:path}}/{word}",
                operation,
                methods=["POST"],
                openapi_extra=permission("write", RESOURCE),
                name=operation.__name__,
            )
        return router

    async def move_label(self, request: Request, name: str, move: LabelMove) -> Recorded:
        """Point a label at a version, which is loaded first if it is not. Done when every replica serves it."""
        return recorded(await self.changes.move_label(name, move.label, move.version, wish_of(request, move)))

    async def load_version(self, request: Request, name: str, change: VersionChange) -> Recorded:
        """Serve a version beside the others. Nobody is sent there who does not ask for it."""
        return recorded(await self.changes.load(name, change.version, wish_of(request, change)))

    async def unload_version(self, request: Request, name: str, change: VersionChange) -> Recorded:
        """Stop serving a version, after the calls that are under way. Refused while a label or a shadow needs it."""
        return recorded(await self.changes.unload(name, change.version, wish_of(request, change)))

    async def set_canary(self, request: Request, name: str, share: Share) -> Recorded:
        """Give a share of the agents another version. Each agent stays where it is while the share grows."""
        return recorded(await self.changes.set_canary(name, share.version, share.percent, wish_of(request, share)))

    async def set_shadow(self, request: Request, name: str, share: Share) -> Recorded:
        """Copy a share of the predictions to another version. Its answers are compared and thrown away."""
        return recorded(await self.changes.set_shadow(name, share.version, share.percent, wish_of(request, share)))

    async def roll_back(self, request: Request, name: str, change: Change) -> Recorded:
        """The stable label back on what it named before. Ends canary and shadow."""
        return recorded(await self.changes.roll_back(name, wish_of(request, change)))

    async def release_version(self, request: Request, name: str, change: VersionChange) -> Recorded:
        """Let go of the hold that drift left on a version when another was promoted. Probes decide what follows."""
        return recorded(await self.changes.release_version(name, change.version, wish_of(request, change)))
