"""Any service that trains: it is posted the job's description, and then asked at a URL of its own how far it is.

    POST <url>            the description; "Idempotency-Key" is the job's name; answers {"status_url": …}
    GET <status_url>      {"state": waiting | running | succeeded | failed | lost, "progress": {…}, "metrics": {…},
                           "reason": …, "detail": …}; 404 means that it knows no such job
    DELETE <status_url>   the job is to be ended

Every request is signed, so that the service can refuse what others ask: "X-Controlplane-Signature" is ``sha256=`` and
the hex HMAC-SHA-256, by the shared secret, of the timestamp in "X-Controlplane-Timestamp" (seconds since 1970), the
method, the path and the body, joined by full stops. The status URL must be of the same origin: nobody else is shown
signed requests.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from controlplane.retraining.runners.description import Description, place_there, plain
from controlplane.retraining.runners.polled import REASONS, JobState, JobStatus
from controlplane.retraining.runners.rest import Rest
from controlplane.retraining.settings import TrainingSettings, WebhookSettings
from controlplane.retraining.trainer import TrainerUnavailable, TrainingFailed

STATES = {state.value: state for state in JobState}


def jobs(settings: TrainingSettings, _root: Path) -> WebhookJobs:
    return WebhookJobs(settings.webhook, settings.models_there)


def signature(secret: bytes, timestamp: str, method: str, path: str, body: bytes) -> str:
    """What a service has to find in the header."""
    signed = b".".join([timestamp.encode(), method.encode(), path.encode(), body])
    return f"sha256={hmac.digest(secret, signed, 'sha256').hex()}"


@dataclass(frozen=True, slots=True)
class WebhookJobs:
    """``Jobs`` of one service. A job's id is the path of its status."""

    settings: WebhookSettings
    models_there: Path | None = None
    now_s: Callable[[], float] = time.time

    async def submit(self, description: Description) -> str:
        body = json.dumps(description.as_json(place_there(description, self.models_there))).encode()
        path = _path_of(self.settings.url)
        _, said = await self._ask("POST", path, body, {"idempotency-key": description.name})
        if not isinstance(said.get("status_url"), str):
            raise TrainingFailed("the answer names no status_url", "training_refused")
        try:
            status_url = urljoin(self.settings.url, said["status_url"])
        except ValueError as error:
            raise TrainingFailed(f"the status_url is none: {error}", "training_refused") from error
        if _origin_of(status_url) != _origin_of(self.settings.url):
            raise TrainingFailed(f"{status_url} is of another origin", "training_refused")
        return _path_of(status_url)

    async def status(self, job: str) -> JobStatus:
        status, said = await self._ask("GET", job, expected=(HTTPStatus.NOT_FOUND,))
        if status == HTTPStatus.NOT_FOUND:
            return JobStatus(JobState.LOST, detail=f"{job} is not known there")
        state = STATES.get(str(said.get("state")))
        if state is None:
            raise TrainerUnavailable(f"{job} is in a state that is none: {str(said)[:500]}")
        reason = said.get("reason")
        return JobStatus(
            state,
            progress=_object(said.get("progress")),
            metrics=plain(_object(said.get("metrics"))),
            detail=str(said.get("detail", ""))[:2_000],
            reason=reason if isinstance(reason, str) and reason in REASONS else "training_failed",
        )

    async def end(self, job: str) -> None:
        await self._ask("DELETE", job, expected=(HTTPStatus.NOT_FOUND, HTTPStatus.GONE))

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        expected: tuple[int, ...] = (),
    ) -> tuple[int, dict[str, Any]]:
        timestamp = str(round(self.now_s()))
        try:
            secret = self.settings.secret_file.read_bytes().strip()
        except OSError as error:
            raise TrainerUnavailable(f"no secret to sign with: {error}") from error
        sent = {
            "content-type": "application/json",
            "x-controlplane-timestamp": timestamp,
            "x-controlplane-signature": signature(secret, timestamp, method, path, body),
        }
        rest = Rest(_origin_of(self.settings.url), ca_file=self.settings.ca_file)
        return await rest.ask(method, path, body=body, headers=sent | (headers or {}), expected=expected)


def _object(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
