"""Model servers as one fleet: which model is served by whom, in which version, and who answers in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio

from controlplane.clock import Clock
from controlplane.policy import Catalogue
from controlplane.settings import OpenAiBackend, Settings
from inference.backend import Backend
from inference.tfserving.backend import TfServingBackend
from inference.vllm import VllmBackend


class Fleet:
    def __init__(
        self,
        settings: Settings,
        catalogue: Callable[[], Catalogue],
        clock: Clock,
        breaker_moved: Callable[[str, str, str], None],
    ) -> None:
        self.settings, self.catalogue, self.clock = settings, catalogue, clock
        self._servers: dict[str, VllmBackend | TfServingBackend] = {
            name: VllmBackend(each) if isinstance(each, OpenAiBackend) else TfServingBackend(each)
            for name, each in settings.backends.items()
        }

    def names(self) -> Iterable[str]:
        return [name for name, entry in self.catalogue().models.items() if entry.backend in self._servers]

    def ladder_of(self, name: str) -> Backend | None:
        entry = self.catalogue().models.get(name)
        return self._servers.get(entry.backend) if entry else None

    async def keep_deployed(self) -> None:
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        for server in self._servers.values():
            await server.aclose()
