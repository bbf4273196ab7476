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


INPUTS = [("text", 1), (["two", "texts"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 0), (None, 0)]


@pytest.mark.parametrize(("given", "count"), INPUTS)
@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("completions", "prompt"),
        ("embeddings", "input"),
        ("responses", "input"),
        ("rerank", "documents"),
        ("score", "documents"),
        ("score", "items"),
        ("score", "data_2"),
        ("score", "text_2"),
    ],
)
async def test_policy_sees_how_many_texts_a_call_brings(operation: str, field: str, given: Any, count: int) -> None:
    call = await OpenAIDoor(operation, "/").read_call(request_with({"model": "tiny", field: given}))
    assert call.arguments["inputs_count"] == count
    assert (call.operation, call.action, call.resource) == (operation, "infer", "/model/tiny")


@pytest.mark.parametrize(
    ("operation", "field"),
    [("chat", "max_tokens"), ("completions", "max_tokens"), ("responses", "max_output_tokens")],
)
async def test_policy_sees_the_cap_by_one_name_whatever_the_protocol_calls_it(operation: str, field: str) -> None:
    call = await OpenAIDoor(operation, "/").read_call(request_with({"model": "tiny", field: 7, "stream": True}))
    assert (call.arguments["max_tokens"], call.arguments["stream"], call.streams) == (7, True, True)


@pytest.mark.parametrize("operation", ["embeddings", "rerank", "score"])
async def test_what_answers_at_once_is_no_stream_whatever_it_says(operation: str) -> None:
    call = await OpenAIDoor(operation, "/").read_call(request_with({"model": "tiny", "stream": True}))
    assert not call.streams
