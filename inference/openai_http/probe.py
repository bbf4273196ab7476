"""The smallest piece of real work for a server with the OpenAI HTTP API: one token, or one embedding."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from http import HTTPStatus
from itertools import count
from typing import Any

import msgspec

from inference.backend import Backend, BackendRequest
from inference.errors import BackendBroke, BackendRejected

SHORTEST: Mapping[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "."}], "max_tokens": 1},
    "completions": {"prompt": ".", "max_tokens": 1},
    "embeddings": {"input": "."},
}
TIMEOUT_S = 60.0  # whoever probes is less patient


class ModelList(msgspec.Struct):
    data: list[NamedModel]


class NamedModel(msgspec.Struct):
    id: str


_read_models = msgspec.json.Decoder(ModelList).decode


class OneToken:
    """A ``Probe`` through ``backend``. Without ``model`` it takes the first that the server lists.

    Returns when the engine has answered: a listing, a health page or a refusal prove only that its front is there.
    """

    def __init__(self, backend: Backend, model: str = "", operation: str = "chat") -> None:
        self._backend, self._model, self._operation = backend, model, operation
        self._numbers = count(1)

    async def __call__(self) -> None:
        if not self._model:
            self._model = await self._first_listed()
        body = msgspec.json.encode({"model": self._model} | SHORTEST[self._operation])
        await self._answer(self._operation, body)

    async def _first_listed(self) -> str:
        try:
            listed = _read_models(await self._answer("models", b"", "GET")).data
        except msgspec.DecodeError as error:
            raise BackendBroke("models_unreadable", str(error)) from error
        if not listed:
            raise BackendRejected("no_model", "the server lists no model")
        return listed[0].id

    async def _answer(self, operation: str, body: bytes, http_method: str = "POST") -> bytes:
        request = BackendRequest(
            call_id=f"probe-{next(self._numbers)}",
            target=self._model,
            operation=operation,
            body=body,
            http_method=http_method,
            timeout_s=TIMEOUT_S,
            priority=0,
        )
        async with self._backend.send(request) as reply, aclosing(reply.chunks) as chunks:
            answer = b"".join([chunk async for chunk in chunks])
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise BackendRejected("probe_refused", f"status {reply.status}")
        return answer
