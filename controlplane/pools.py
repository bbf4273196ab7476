"""A configured backend as a pool of its servers: one for each address, watched on the side, judged by what they do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio

from controlplane.adapter_control import AdapterDesk
from controlplane.settings import OpenAiBackend, TfServingModels
from inference.adapters import AdapterRegistry
from inference.backend import Backend
from inference.launch import Lora
from inference.routing import ReplicaPool, ReplicaStatus, State
from inference.routing.tfserving import StatusProbe
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
        return self.status.rss_bytes

    @property
    def is_progressing(self) -> bool | None:
        return self.status.state is State.READY and self.status.stalled_s == 0


class Pools:
    """Every pool of the gateway by the name of its backend. Close it when done.

    A replica that is isolated gets calls only while nobody else can take them.
    """

    def __init__(self, listed: Callable[[str], Lora]) -> None:
        self.adapters = AdapterDesk()
        self._listed = listed
        self._pools: dict[str, ReplicaPool | VllmPool] = {}
        self._isolated: set[str] = set()
        self._closing = AsyncExitStack()

    def of_openai(self, name: str, each: OpenAiBackend) -> Backend:
        """Servers that answer alike, one for each URL."""
        urls = {f"{url.host}:{url.port}": url for url in (each.base_url, *each.replicas)}
        bases = {key: str(url).rstrip("/") for key, url in urls.items()}
        registry = AdapterRegistry(bases, lambda: self._listed(name), lambda: _secret_in(each.api_key_file))
        self.adapters.registries[name] = registry

        def serves(replica: str, target: str, _version: int | None) -> bool:
            return f"{name}/{replica}" not in self._isolated and registry.serves(replica, target)

        pool = VllmPool(each, urls, each.watched(), serves=serves, adapters=lambda: registry.listed)
        self._pools[name] = pool
        self._closing.push_async_callback(pool.aclose)
        return pool

    def of_tfserving(
        self, name: str, each: TfServingModels, servers: Mapping[str, TfServingBackend], deployment: Deployment
    ) -> Backend:
        """Servers that are told to serve the same. Who is away is known by the deployment, which asks all the time."""

        def serves(replica: str, target: str, version: int | None) -> bool:
            return f"{name}/{replica}" not in self._isolated and deployment.serves_at(replica, target, version)

        model = next(iter(each.models), "")
        is_probed = model and each.routing.watch.probe != "none"
        probes = {one: StatusProbe(server.call, model) for one, server in servers.items()} if is_probed else {}
        replicas = {one: ReplicaBackend(servers[one], replica) for one, replica in deployment.replicas.items()}
        pool = self._pools[name] = ReplicaPool(replicas, each.routing, probes=probes, serves=serves)
        return pool

    def isolate(self, replica: str) -> None:
        """``replica`` as in ``ReplicaView.name``. Calls under way end."""
        self._isolated.add(replica)

    def restore(self, replica: str) -> None:
        self._isolated.discard(replica)

    def views(self, models_of: Callable[[str], Collection[str]]) -> Iterator[ReplicaView]:
        """Inside the running event loop. ``models_of`` gives the models of a backend."""
        for name, pool in self._pools.items():
            models = tuple(models_of(name))
            for status in pool.snapshot():
                yield ReplicaView(name, models, status)

    async def watch(self) -> None:
        """Look at every replica until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.adapters.keep)
            for pool in self._pools.values():
                tasks.start_soon(pool.watch)

    async def aclose(self) -> None:
        await self._closing.aclose()


def _secret_in(file: Path | None) -> str:
    """The key as the file has it now; "" when it cannot be read, and then the server refuses."""
    try:
        return file.read_text("utf-8").strip() if file is not None else ""
    except OSError:
        return ""
