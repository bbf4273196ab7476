"""A configured backend as a pool of its servers: one for each address, watched on the side, judged by what they do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from controlplane.settings import OpenAiBackend, TfServingModels
from inference.backend import Backend
from inference.routing import ReplicaPool, ReplicaStatus, State
from inference.routing.vllm import VllmPool
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.deployment import Deployment
from inference.tfserving.replica import ReplicaBackend


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica of one backend, for whoever adapts to it or shows it."""

    backend: str
    models: tuple[str, ...]
    status: ReplicaStatus

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.status.name}"

    @property
    def kv_ratio(self) -> float | None:
        return self.status.kv_ratio

    @property
    def gpu_ratio(self) -> float | None:
        return None  # vLLM does not say it

    @property
    def waiting(self) -> int | None:
        return self.status.waiting

    @property
    def rss_bytes(self) -> int | None:
        return None

    @property
    def is_progressing(self) -> bool | None:
        return self.status.state is State.READY and self.status.stalled_s == 0


class Pools:
    """Every pool of the gateway by the name of its backend. Close it when done."""

    def __init__(self) -> None:
        self._pools: dict[str, ReplicaPool | VllmPool] = {}
        self._closing = AsyncExitStack()

    def of_openai(self, name: str, each: OpenAiBackend) -> Backend:
        """Servers that answer alike, one for each URL."""
        urls = {f"{url.host}:{url.port}": url for url in (each.base_url, *each.replicas)}
        pool = self._pools[name] = VllmPool(each, urls, each.watched())
        self._closing.push_async_callback(pool.aclose)
        return pool

    def of_tfserving(
        self, name: str, each: TfServingModels, servers: Mapping[str, TfServingBackend], deployment: Deployment
    ) -> Backend:
        """Servers that are told to serve the same. Who is away is known by the deployment, which asks all the time."""
        replicas = {one: ReplicaBackend(servers[one], replica) for one, replica in deployment.replicas.items()}
        pool = self._pools[name] = ReplicaPool(replicas, each.routing, serves=deployment.serves_at)
        return pool

    def views(self, models_of: Callable[[str], Collection[str]]) -> Iterator[ReplicaView]:
        """Inside the running event loop. ``models_of`` gives the models of a backend."""
        for name, pool in self._pools.items():
            models = tuple(models_of(name))
            for status in pool.snapshot():
                yield ReplicaView(name, models, status)

    async def watch(self) -> None:
        """Look at every replica until cancelled."""
        async with anyio.create_task_group() as tasks:
            for pool in self._pools.values():
                tasks.start_soon(pool.watch)

    async def aclose(self) -> None:
        await self._closing.aclose()
