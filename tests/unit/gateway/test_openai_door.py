"""What the OpenAI doors read of a request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request

from controlplane.gateway.doors.openai import OpenAIDoor


def request_with(document: dict[str, Any]) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(document).encode()}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


@pytest.mark.parametrize("given", ["text", ["two", "texts"], [1, 2, 3], [[1, 2], [3]]])
async def test_embeddings_are_asked_for_with_every_kind_of_input(given: Any) -> None:
    door = OpenAIDoor("embeddings", "/v1/embeddings")
    call = await door.read_call(request_with({"model": "tiny", "input": given}))
    assert call.resource == "/model/tiny"
    assert json.loads(call.body)["input"] == given
