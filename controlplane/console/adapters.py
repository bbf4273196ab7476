"""Operators and LoRA adapters: which replica serves which, loading and unloading those that the catalogue lists."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from controlplane.console.changes import Changes
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.ports import AdapterControl
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Change, Recorded, recorded, wish_of

RESOURCE = "/api/adapters"


class Adapter(BaseModel):
    name: str
    replicas: list[str]


class AdapterList(BaseModel):
    adapters: list[Adapter]


class AdaptersApi:
    def __init__(self, control: AdapterControl, changes: Changes) -> None:
        self.control, self.changes = control, changes

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["adapters"])
        may_read, may_write = permission("read", RESOURCE), permission("write", RESOURCE)
        router.add_api_route(
            RESOURCE, self.list_adapters, methods=["GET"], openapi_extra=may_read, name="list_adapters"
        )
        for word, operation in (("load", self.load_adapter), ("unload", self.unload_adapter)):
            path, name = f"{RESOURCE}/{{adapter}}/{word}", operation.__name__
            router.add_api_route(path, operation, methods=["POST"], openapi_extra=may_write, name=name)
        return router

    async def list_adapters(self) -> AdapterList:
        """Adapters that the catalogue lists, and the replicas that serve them."""
        where = self.control.where().items()
        return AdapterList(adapters=[Adapter(name=name, replicas=list(replicas)) for name, replicas in where])

    async def load_adapter(self, request: Request, adapter: str, change: Change) -> Recorded:
        """Have every replica serve an adapter. Only where the catalogue lets servers take them while they run."""
        what, wish = {"what": "adapter.load", "adapter": adapter}, wish_of(request, change)
        return recorded(await self.changes.do(what, wish, lambda: self.control.load(adapter)))

    async def unload_adapter(self, request: Request, adapter: str, change: Change) -> Recorded:
        """Have no replica serve an adapter."""
        what, wish = {"what": "adapter.unload", "adapter": adapter}, wish_of(request, change)
        return recorded(await self.changes.do(what, wish, lambda: self.control.unload(adapter)))
