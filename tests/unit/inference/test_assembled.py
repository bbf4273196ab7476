"""Chunks put together are the answer that they are chunks of."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from inference.backend import BackendReply, BackendRequest, Usage
from inference.errors import BackendBroke, BackendTimeout
from inference.openai_http.assembled import Assembled, Assembly, as_stream

HEAD = {"id": "1", "object": "chat.completion.chunk", "model": "m"}


def asked(**fields: Any) -> BackendRequest:
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    return BackendRequest(call_id="c", target="m", operation="chat", body=body)


def part(index: int = 0, **said: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, **said}]}


def whole(*chunks: dict[str, Any]) -> dict[str, Any]:
    assembly = Assembly()
    for chunk in chunks:
        assembly.add(json.loads(json.dumps(chunk)))
    return assembly.whole()


def test_texts_grow_and_what_is_last_said_holds() -> None:
    answer = whole(
        part(delta={"role": "assistant", "content": ""}),
        part(delta={"content": "hel"}),
        part(delta={"content": "lo"}, finish_reason=None),
        part(delta={}, finish_reason="stop"),
        {**HEAD, "choices": [], "usage": {"completion_tokens": 2}},
    )
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"completion_tokens": 2}


def test_choices_are_kept_apart_and_come_in_order() -> None:
    answer = whole(part(1, delta={"content": "b"}), part(0, delta={"content": "a"}), part(1, delta={"content": "c"}))
    assert [(one["index"], one["message"]["content"]) for one in answer["choices"]] == [(0, "a"), (1, "bc")]


def test_arguments_of_several_tool_calls_are_joined_by_their_number() -> None:
    def call(number: int, **function: str) -> dict[str, Any]:
        return part(delta={"tool_calls": [{"index": number, "function": function}]})

    first = part(delta={"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "f"}}]})
    second = part(delta={"tool_calls": [{"index": 1, "id": "y", "type": "function", "function": {"name": "g"}}]})
    answer = whole(first, call(0, arguments='{"a"'), second, call(0, arguments=":1}"), call(1, arguments="{}"))
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_log_probabilities_are_strung_together() -> None:
    answer = whole(
        part(delta={"content": "a"}, logprobs={"content": [{"token": "a"}]}),
        part(delta={"content": "b"}, logprobs={"content": [{"token": "b"}]}),
    )
    assert answer["choices"][0]["logprobs"]["content"] == [{"token": "a"}, {"token": "b"}]


def test_a_running_count_is_not_the_whole() -> None:
    counted = {**part(delta={"content": "a"}), "usage": {"completion_tokens": 1}}
    assert "usage" not in whole(counted)


def test_an_answer_without_a_choice_is_broken() -> None:
    with pytest.raises(BackendBroke, match="without a choice"):
        whole()


@pytest.mark.parametrize("field", ["use_beam_search", "best_of", "prompt_logprobs", "return_token_ids", "stream"])
def test_what_cannot_be_streamed_alike_is_asked_as_it_is(field: str) -> None:
    assert as_stream(asked()) is not None
    assert as_stream(asked(**{field: 1})) is None


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_a_body_that_is_none_is_left_to_the_server(body: bytes) -> None:
    assert as_stream(BackendRequest(call_id="c", target="m", operation="chat", body=body)) is None


class Streaming:
    """A server that streams ``pieces``, and remembers how it was asked. An exception among them is raised."""

    def __init__(self, *pieces: Any, status: int = 200, kind: str = "text/event-stream") -> None:
        self.pieces, self.status, self.kind, self.asked = pieces, status, kind, list[BackendRequest]()
        self.closed = False

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked.append(request)
        async with aclosing(self._play()) as chunks:
            yield BackendReply(self.status, (("content-type", self.kind),), chunks, usage=Usage())

    async def _play(self) -> AsyncGenerator[bytes]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True


def event(chunk: Any) -> bytes:
    return b"data: " + (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) + b"\n\n"


async def answer(backend: Any, request: BackendRequest) -> tuple[BackendReply, bytes]:
    async with Assembled(backend).send(request) as reply, aclosing(reply.chunks) as chunks:
        return reply, b"".join([chunk async for chunk in chunks])


async def test_a_plain_question_is_asked_as_a_stream_and_answered_plainly() -> None:
    server = Streaming(event(part(delta={"content": "a"})), event(b"[DONE]"))
    reply, body = await answer(server, asked())
    assert dict(reply.headers)["content-type"] == "application/json"
    assert json.loads(body)["choices"][0]["message"]["content"] == "a"
    (request,) = server.asked
    assert request.streams
    assert json.loads(request.body)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


async def test_a_refusal_passes_as_it_is() -> None:
    reply, body = await answer(Streaming(b'{"error": 1}', status=400, kind="application/json"), asked())
    assert (reply.status, body) == (400, b'{"error": 1}')


async def test_a_stream_that_breaks_is_no_answer_and_is_closed() -> None:
    server = Streaming(event(part(delta={"content": "a"})), BackendTimeout("stalled"))
    with pytest.raises(BackendTimeout):
        await answer(server, asked())
    assert server.closed


@pytest.mark.parametrize("chunk", [b"nonsense", b"[1]", b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"])
async def test_a_chunk_that_is_no_json_breaks_the_answer(chunk: bytes) -> None:
    with pytest.raises(BackendBroke, match="not a JSON object"):
        await answer(Streaming(event(chunk)), asked())


@pytest.mark.parametrize(
    "choices",
    [None, "abc", [1], [{"index": {}}], [{"index": "a"}, {"index": 0}], [{"index": 0, "delta": {"tool_calls": ["x"]}}]],
)
async def test_chunks_of_another_shape_break_the_answer(choices: Any) -> None:
    with pytest.raises(BackendBroke) as caught:
        await answer(Streaming(event({"choices": choices}), event(b"[DONE]")), asked())
    assert caught.value.reason == "untranslatable"


async def test_a_choice_and_a_tool_call_without_a_number_are_taken_as_they_come() -> None:
    calls = [{"id": "a", "function": {"arguments": "{}"}}], [{"index": 0, "function": {"name": "f"}}]
    server = Streaming(*(event({"choices": [{"delta": {"tool_calls": call}}]}) for call in calls), event(b"[DONE]"))
    _, body = await answer(server, asked())
    (choice,) = json.loads(body)["choices"]
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [{"arguments": "{}"}, {"name": "f"}]


async def test_a_stream_is_known_however_its_type_is_written() -> None:
    _, body = await answer(Streaming(event(part(delta={"content": "a"})), kind="Text/Event-Stream"), asked())
    assert json.loads(body)["object"] == "chat.completion"
