"""The LoRA adapters of all backends as one: who lists them is the catalogue, who has them the replicas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio

from controlplane.console.ports import ChangeFailed, ChangeRefused
from controlplane.policy import Catalogue
from inference.adapters import AdapterRefused, AdapterRegistry
from inference.launch import Lora

KEEP_S = 5.0
REFUSALS = frozenset({"not_listed", "not_at_runtime"})
NONE = Lora()


class ListedAdapters:
    """What the catalogue lists just now, by backend. Read anew only when policy was."""

    def __init__(self, catalogue: Callable[[], Catalogue]) -> None:
        self._catalogue = catalogue
        self._read: Catalogue | None = None
        self._by_backend: Mapping[str, Lora] = {}

    def of(self, backend: str) -> Lora:
        catalogue = self._catalogue()
        if catalogue is not self._read:
            self._by_backend, self._read = by_backend(catalogue), catalogue
        return self._by_backend.get(backend, NONE)


def by_backend(catalogue: Catalogue) -> dict[str, Lora]:
    """The adapters of all models that one backend serves. They may come while it runs if all of its launches say so."""
    found: dict[str, Lora] = {}
    for entry in catalogue.models.values():
        lora = entry.card.launch.lora if entry.card.launch is not None else None
        if lora is not None:
            other = found.get(entry.backend, lora)
            changes = {"adapters": {**other.adapters, **lora.adapters}, "runtime": other.runtime and lora.runtime}
            found[entry.backend] = lora.model_copy(update=changes)
    return found


class AdapterDesk:
    """``console.ports.AdapterControl`` over the registries of all backends."""

    def __init__(self) -> None:
        self.registries: dict[str, AdapterRegistry] = {}

    def where(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for backend, registry in self.registries.items():
            for adapter, replicas in registry.where().items():
                found.setdefault(adapter, []).extend(f"{backend}/{one}" for one in replicas)
        return found

    async def load(self, adapter: str) -> None:
        registry = self._listing(adapter)
        await _asked(lambda: registry.load(adapter))

    async def unload(self, adapter: str) -> None:
        registry = self._listing(adapter)
        await _asked(lambda: registry.unload(adapter))

    async def keep(self) -> None:
        """Until cancelled: know who serves what, and load what is listed where that is allowed."""
        async with anyio.create_task_group() as tasks:
            for registry in self.registries.values():
                tasks.start_soon(registry.keep, KEEP_S)

    def _listing(self, adapter: str) -> AdapterRegistry:
        for registry in self.registries.values():
            if adapter in registry.listed:
                return registry
        raise ChangeRefused("not_listed", f"no catalogue lists an adapter {adapter}")


async def _asked(act: Callable[[], Awaitable[None]]) -> None:
    try:
        await act()
    except AdapterRefused as refused:
        known = ChangeRefused if refused.reason in REFUSALS else ChangeFailed
        raise known(refused.reason, refused.detail) from refused
