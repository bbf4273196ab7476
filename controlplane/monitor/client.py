"""The gateway as the monitor sees it: observations to read, moves to ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from controlplane.drift.observed import MEDIA_TYPE
from controlplane.monitor.packed import decoded
from controlplane.monitor.settings import MonitorSettings
from controlplane.retraining.ports import Gateway, GatewayUnavailable, Review, TransitionRefused

SERVER_ERROR = 500
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Page:
    """Observations after some sequence number; ``boot`` names the gateway's life, in which these numbers hold."""

    observations: Sequence[Mapping[str, Any]]
    next: int
    lost: int = 0
    boot: str = ""


class Client(Gateway, Protocol):
    async def observations(self, after: int, limit: int) -> Page:
        """What was observed after ``after``. Raises ``GatewayUnavailable``."""
        ...


class HttpClient:
    """The gateway over HTTP, as ``service:monitor``."""

    def __init__(self, settings: MonitorSettings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session

    async def observations(self, after: int, limit: int) -> Page:
        reply = await self._call("GET", "/api/observations", params={"after": after, "limit": limit}, packed=True)
        try:
            return Page(reply["observations"], reply["next"], reply.get("lost", 0), reply.get("boot", ""))
        except (KeyError, TypeError) as error:
            raise GatewayUnavailable(f"/api/observations answers something else: {error!r}") from error

    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        await self._call("POST", f"/api/models/{model}/transitions", json=dict(move))

    async def review(self, model: str) -> Review | None:
        said = await self._call("GET", f"/api/reviews/{model}")
        return Review(said["id"], said["answer"]) if said.get("id") else None

    async def show_report(self, model: str, report: Mapping[str, Any]) -> None:
        """Raises ``GatewayUnavailable`` or ``TransitionRefused``, as all of these."""
        await self._call("POST", f"/api/drift/{model}/reports", json=dict(report))

    async def show_evidence(self, model: str, said: Mapping[str, Any]) -> None:
        await self._call("POST", f"/api/drift/{model}/evidence", json=dict(said))

    async def record_gap(self, gap: Mapping[str, Any]) -> None:
        await self._call("POST", "/api/observations/gaps", json=dict(gap))

    async def record_verdict(self, verdict: Mapping[str, Any]) -> None:
        await self._call("POST", "/api/observations/verdicts", json=dict(verdict))

    async def show_skipped(self, skipped: Mapping[str, Mapping[str, int]]) -> None:
        await self._call("POST", "/api/observations/skipped", json={"skipped": skipped})

    async def _call(self, method: str, path: str, *, packed: bool = False, **sent: Any) -> Any:
        try:
            token = self._settings.token_file.read_text().strip()
            headers = {"authorization": f"Bearer {token}"} | ({"accept": MEDIA_TYPE} if packed else {})
            async with self._session.request(
                method, self._settings.gateway_url + path, headers=headers, **sent
            ) as reply:
                body = await reply.read()
                status = reply.status
            if status >= SERVER_ERROR or status in (401, 403, TOO_MANY_REQUESTS):
                # A refused token may be an expired one: the file is read again next time.
                raise GatewayUnavailable(f"{path} answered {status}: {body[:500]!r}", _reason(body))
            if status >= 400:  # noqa: PLR2004 - the rest of HTTP's client errors
                raise TransitionRefused(f"{path} answered {status}: {body[:500]!r}")
            return decoded(reply.content_type, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise GatewayUnavailable(f"{path}: {error}") from error


def _reason(body: bytes) -> str:
    """The stable word of a problem document, "" for anything else."""
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""
