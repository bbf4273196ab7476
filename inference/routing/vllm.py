"""A pool of servers with the OpenAI HTTP API: each with its own connections, metrics and probe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager

from pydantic import HttpUrl

from inference.backend import BackendReply, BackendRequest
from inference.openai_http.assembled import Assembled
from inference.openai_http.load import VllmLoad
from inference.openai_http.probe import OneToken
from inference.openai_http.settings import VllmSettings
from inference.routing.choice import Serves, serves_everything
from inference.routing.health import Transition
from inference.routing.pool import ReplicaPool
from inference.routing.settings import RoutingSettings
from inference.routing.status import ReplicaStatus
from inference.vllm import VllmBackend


class VllmPool:
    """``settings`` hold for all servers but for the address, which is each replica's own; none: that of ``settings``.

    ``aclose`` it when done.
    """

    def __init__(
        self,
        settings: VllmSettings,
        replicas: Mapping[str, HttpUrl],
        routing: RoutingSettings,
        *,
        serves: Serves = serves_everything,
        adapters: Callable[[], Collection[str]] = tuple,
    ) -> None:
        urls = dict(replicas) or {settings.base_url.host or "only": settings.base_url}
        each = {name: settings.model_copy(update={"base_url": url}) for name, url in urls.items()}
        servers = {name: VllmBackend(one, adapters) for name, one in each.items()}
        assembles = settings.counts_abandoned_calls and settings.dialect == "vllm"
        self._backends = {name: Assembled(one) if assembles else one for name, one in servers.items()}
        self._loads = {name: VllmLoad(one) for name, one in each.items()} if routing.watch.metrics else {}
        probed = self._backends if routing.watch.probe != "none" else {}
        probes = {name: OneToken(one, settings.served_model, routing.watch.probe) for name, one in probed.items()}
        self._pool = ReplicaPool(self._backends, routing, probes=probes, loads=self._loads, serves=serves)

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        return self._pool.send(request)

    async def watch(self) -> None:
        await self._pool.watch()

    def listen(self, listener: Callable[[Transition], None]) -> None:
        self._pool.listen(listener)

    def snapshot(self) -> list[ReplicaStatus]:
        return self._pool.snapshot()

    async def aclose(self) -> None:
        for backend in self._backends.values():
            await backend.aclose()
        for load in self._loads.values():
            await load.aclose()
