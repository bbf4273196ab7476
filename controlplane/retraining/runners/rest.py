"""JSON over HTTP to a runner elsewhere: bounded, without redirects, every failure a word that retraining knows."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from controlplane.retraining.trainer import TrainerUnavailable, TrainingFailed
from inference.bounded import read_whole

ASK_S = 30.0
MAY_PASS = {  # a refused token may be an expired one: its file is read again next time
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


@dataclass(frozen=True, slots=True)
class Rest:
    """``origin`` has no path. ``token_file`` is read at every call."""

    origin: str
    token_file: Path | None = None
    ca_file: Path | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        expected: tuple[int, ...] = (),
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of the answer. Statuses other than 2xx are returned only when ``expected``.

        Raises:
            TrainerUnavailable: no answer, or one that says that another may come.
            TrainingFailed: ``training_refused``.
        """
        try:
            sent = dict(headers or {}) | self._authorization()
            tls = ssl.create_default_context(cafile=self.ca_file) if self.origin.startswith("https:") else True
            timeout = aiohttp.ClientTimeout(total=ASK_S)
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=tls)) as session,
                session.request(
                    method, self.origin + path, data=body, params=params, headers=sent, allow_redirects=False
                ) as reply,
            ):
                said = await read_whole(reply)
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TrainerUnavailable(f"{self.origin}: {error!r}") from error
        return self._answer(status, said, expected)

    async def ask_json(
        self, method: str, path: str, said: Mapping[str, Any], *, expected: tuple[int, ...] = ()
    ) -> tuple[int, dict[str, Any]]:
        headers = {"content-type": "application/json"}
        return await self.ask(method, path, body=json.dumps(dict(said)).encode(), headers=headers, expected=expected)

    def _authorization(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        return {"authorization": f"Bearer {self.token_file.read_text('utf-8').strip()}"}

    def _answer(self, status: int, said: bytes, expected: tuple[int, ...]) -> tuple[int, dict[str, Any]]:
        shown = f"{self.origin} answered {status}: {said[:500]!r}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in MAY_PASS:
            raise TrainerUnavailable(shown)
        if status not in expected and not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise TrainingFailed(shown, "training_refused")
        try:
            found = json.loads(said or b"{}")
        except (ValueError, RecursionError) as error:
            if status in expected:
                return status, {}
            raise TrainerUnavailable(f"{shown}, which is no JSON") from error
        return status, found if isinstance(found, dict) else {}
