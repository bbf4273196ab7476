"""LoRA adapters of one vLLM backend: which replica has which, and loading those that the catalogue lists.

An adapter is called by its name like any model, so policy grants it like any model. Only listed names are ever loaded,
and only from the listed path: the path is in the server's own file system, and one that a caller chose would read it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from inference.bounded import read_whole
from inference.launch.launch import Lora

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 120.0
FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


class AdapterRefused(Exception):
    """``reason``: ``not_listed``, ``not_at_runtime``, ``load_failed``, ``unload_failed``, ``unreachable``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class ServedNames:
    """What one replica said it serves: ``base`` models, and ``adapters`` with the name of their base."""

    base: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()


class AdapterRegistry:
    """``replicas`` maps a replica's name to its base URL (ending in /v1). What a silent replica has is not known, and
    a replica not known to have an adapter is not asked for it. ``lora`` is what the catalogue says just now.
    """

    def __init__(self, replicas: Mapping[str, str], lora: Callable[[], Lora], api_key: Callable[[], str] = str) -> None:
        self._replicas = {name: URL(url) for name, url in replicas.items()}
        self._lora_now, self._api_key = lora, api_key
        self._served: dict[str, ServedNames] = {}

    @property
    def _lora(self) -> Lora:
        return self._lora_now()

    @property
    def listed(self) -> Mapping[str, str]:
        return self._lora.adapters

    def serves(self, replica: str, model: str) -> bool:
        """Whether ``replica`` may be asked for ``model``; what is no adapter of ours is not ours to judge."""
        return model not in self._lora.adapters or model in self._served.get(replica, ServedNames()).adapters

    def where(self) -> dict[str, list[str]]:
        """Replicas by adapter, also of adapters that nobody has."""
        return {
            name: sorted(replica for replica, names in self._served.items() if name in names.adapters)
            for name in sorted(self._lora.adapters)
        }

    def unlisted(self) -> dict[str, list[str]]:
        """Adapters that a replica serves and no catalogue lists: somebody else reached that server."""
        found = {
            replica: sorted(names.adapters - self._lora.adapters.keys()) for replica, names in self._served.items()
        }
        return {replica: names for replica, names in found.items() if names}

    async def refresh(self) -> None:
        """Ask every replica what it serves."""
        await asyncio.gather(*(self._ask(replica) for replica in self._replicas))

    async def load(self, adapter: str) -> None:
        """Have every replica that answers serve ``adapter``. Raises ``AdapterRefused``."""
        path = self._changeable(adapter)
        for replica in list(self._served):
            if not self.serves(replica, adapter):
                wish = {"lora_name": adapter, "lora_path": path}
                await self._tell(replica, "load_lora_adapter", wish, "load_failed")

    async def unload(self, adapter: str) -> None:
        """Have no replica serve ``adapter``. Raises ``AdapterRefused``."""
        self._changeable(adapter)
        for replica, names in list(self._served.items()):
            if adapter in names.adapters:
                await self._tell(replica, "unload_lora_adapter", {"lora_name": adapter}, "unload_failed")

    async def keep(self, every_s: float) -> None:
        """Until cancelled: know what is served, and load on returned replicas what is listed, where that is allowed."""
        complained: set[str] = set()
        while True:
            if self.listed:
                await self.refresh()
            for replica, names in self.unlisted().items():
                if replica not in complained:
                    log.warning(
                        "a replica serves adapters that no catalogue lists", extra={"replica": replica, "names": names}
                    )
                    complained.add(replica)
            if self._lora.runtime:
                await self._load_missing()
            await asyncio.sleep(every_s)

    async def _load_missing(self) -> None:
        for adapter in self._lora.adapters:
            try:
                await self.load(adapter)
            except AdapterRefused as refused:
                log.warning("adapter not loaded", extra={"adapter": adapter, "cause": refused.detail})

    def _changeable(self, adapter: str) -> str:
        if adapter not in self._lora.adapters:
            raise AdapterRefused("not_listed", f"no catalogue lists an adapter {adapter}")
        if not self._lora.runtime:
            raise AdapterRefused("not_at_runtime", "this server takes adapters only when it starts; see lora.runtime")
        return self._lora.adapters[adapter]

    async def _ask(self, replica: str) -> None:
        try:
            async with (
                self._session(ASK_TIMEOUT_S) as session,
                session.get(self._replicas[replica] / "models") as answer,
            ):
                said = json.loads(await read_whole(answer)) if answer.status == HTTPStatus.OK else {}
            self._served[replica] = names_in(said)
        except (*FAILURES, ValueError, RecursionError):
            self._served.pop(replica, None)

    async def _tell(self, replica: str, verb: str, wish: Mapping[str, str], failure: str) -> None:
        url = self._replicas[replica] / verb
        try:
            async with self._session(LOAD_TIMEOUT_S) as session, session.post(url, json=wish) as answer:
                detail = (await read_whole(answer))[:500].decode(errors="replace")
                if answer.status != HTTPStatus.OK:
                    raise AdapterRefused(failure, f"{replica} answered {answer.status}: {detail}")
        except (*FAILURES, ValueError) as error:
            raise AdapterRefused("unreachable", f"{replica}: {error}") from error
        await self._ask(replica)

    def _session(self, timeout_s: float) -> aiohttp.ClientSession:
        key = self._api_key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s), trust_env=False)


def names_in(said: Any) -> ServedNames:
    """``GET /v1/models`` of vLLM: an adapter has a parent, its base."""
    models = said.get("data") if isinstance(said, dict) else None
    if not isinstance(models, list):
        return ServedNames()
    named = {
        one["id"]: bool(one.get("parent")) for one in models if isinstance(one, dict) and isinstance(one.get("id"), str)
    }
    return ServedNames(
        frozenset(name for name, is_adapter in named.items() if not is_adapter),
        frozenset(name for name, is_adapter in named.items() if is_adapter),
    )
