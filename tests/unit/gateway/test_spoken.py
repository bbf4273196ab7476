"""What a model was asked and what it said, in four protocols, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.gateway.spoken import (
    SPEAKING,
    read_asked,
    read_spoken,
    structured_output_failed,
    tool_use_failed,
)

CALL = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
FUNCTION = {"type": "function", "function": {"name": "find", "parameters": {}}}


def whole(document: Any) -> bytes:
    return json.dumps(document).encode()


def stream(*documents: Any) -> bytes:
    return b"".join(b"data: " + whole(each) + b"\n\n" for each in documents) + b"data: [DONE]\n\n"


def chat(delta: Any = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "finish_reason": reason, **({"delta": delta} if delta is not None else {}), **more}]
    }


SAID = {
    ("chat", False): whole(chat(reason="length", message={"content": "Hello you"})),
    ("chat", True): stream(
        chat({"role": "assistant"}), chat({"content": "Hello"}), chat({"content": " you"}, "length")
    ),
    ("completions", False): whole(chat(reason="length", text="Hello you")),
    ("completions", True): stream(chat(text="Hello"), chat(text=" you", reason="length")),
    ("responses", False): whole(
        {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello you"}]}],
        }
    ),
    ("responses", True): stream(
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "Hello"},
        {
            "type": "response.incomplete",
            "response": {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello you"}]}],
            },
        },
    ),
    ("messages", False): whole(
        {"type": "message", "content": [{"type": "text", "text": "Hello you"}], "stop_reason": "max_tokens"}
    ),
    ("messages", True): stream(
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " you"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ),
}


@pytest.mark.parametrize(("operation", "is_stream"), SAID)
def test_text_and_ending_are_the_same_whole_and_streamed(operation: str, is_stream: bool) -> None:
    spoken = read_spoken(operation, SAID[operation, is_stream], is_stream=is_stream)
    assert spoken is not None
    assert (spoken.text, len(spoken.endings), spoken.tool_calls) == ("Hello you", 1, [])
    assert spoken.endings[0] in ("length", "max_tokens", "max_output_tokens")


@pytest.mark.parametrize(("operation", "is_stream"), [said for said in SAID if said[1]])
def test_a_stream_says_the_same_however_its_lines_end(operation: str, is_stream: bool) -> None:
    body = b": awake\n\n" + SAID[operation, is_stream].replace(b"data: {", b"event: x\nid: 1\ndata: {")
    for ended in (body, body.replace(b"\n", b"\r\n"), body.replace(b"data: ", b"data:")):
        spoken = read_spoken(operation, ended, is_stream=is_stream)
        assert spoken is not None
        assert spoken.text == "Hello you"


@pytest.mark.parametrize(
    ("operation", "body", "is_stream"),
    [
        ("chat", whole(chat(message={"content": None, "tool_calls": [CALL]})), False),
        (
            "chat",
            stream(
                chat({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": ""}}]}),
                chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"q":'}}]}),
                chat({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}, "tool_calls"),
            ),
            True,
        ),
        ("responses", whole({"output": [{"type": "function_call", "name": "find", "arguments": '{"q": 1}'}]}), False),
        (
            "messages",
            whole({"type": "message", "content": [{"type": "tool_use", "name": "find", "input": {"q": 1}}]}),
            False,
        ),
        (
            "messages",
            stream(
                {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "find"}},
                {"type": "content_block_delta", "index": 1, "delta": {"partial_json": '{"q":'}},
                {"type": "content_block_delta", "index": 1, "delta": {"partial_json": " 1}"}},
            ),
            True,
        ),
    ],
)
def test_calls_of_tools_are_put_together(operation: str, body: bytes, is_stream: bool) -> None:
    spoken = read_spoken(operation, body, is_stream=is_stream)
    assert spoken is not None
    assert spoken.tool_calls == [("find", '{"q": 1}')]


@pytest.mark.parametrize(
    ("wanted", "answer", "failed"),
    [
        ({"response_format": {"type": "json_object"}}, '{"a": 1}', False),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "Sure! {}", True),
        ({"guided_json": {"type": "object"}}, '{"a": ', True),
        ({"structured_outputs": {"json": {"type": "object"}}}, "[1]", False),
        ({"response_format": {"type": "text"}}, "no JSON", None),
        ({}, "no JSON", None),
    ],
)
def test_an_answer_is_held_against_the_json_that_was_asked_for(wanted: Any, answer: str, failed: bool | None) -> None:
    spoken = read_spoken("chat", whole(chat(message={"content": answer})), is_stream=False)
    assert spoken is not None
    assert structured_output_failed(read_asked("chat", whole(wanted)), spoken) is failed


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [
        ("responses", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        ("messages", {"output_format": {"type": "json_schema", "schema": {}}}),
        ("messages", {"output_config": {"format": {"type": "json_schema"}}}),
    ],
)
def test_every_protocol_has_its_own_words_for_json(operation: str, wanted: Any) -> None:
    assert read_asked(operation, whole(wanted)).wants_json


@pytest.mark.parametrize(
    ("asked", "call", "failed"),
    [
        ({"tools": [FUNCTION]}, CALL, False),
        ({"tools": [FUNCTION]}, None, False),
        ({"tools": [{"name": "other"}]}, CALL, True),
        ({"tools": [FUNCTION]}, {"function": {"name": "find", "arguments": "{"}}, True),
        ({"tools": [FUNCTION]}, {"function": {"name": "find", "arguments": "[1]"}}, True),
        ({}, None, None),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "is_error": True}]}]}, None, True),
    ],
)
def test_a_tool_that_was_used_wrongly_is_told(asked: Any, call: Any, failed: bool | None) -> None:
    calls = {} if call is None else {"tool_calls": [call]}
    spoken = read_spoken("chat", whole(chat(message={"content": "x", **calls})), is_stream=False)
    assert spoken is not None
    assert tool_use_failed(read_asked("chat", whole(asked)), spoken) is failed


@pytest.mark.parametrize("operation", ["embeddings", "models", "rerank", "Predict", ""])
def test_what_does_not_speak_says_nothing(operation: str) -> None:
    assert read_spoken(operation, b"{}", is_stream=False) is None


KEYS = ["choices", "delta", "message", "content", "tools", "tool_calls", "function", "name", "arguments"]
KEYS += ["type", "output", "response", "text", "index", "content_block", "input"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@given(st.sampled_from(sorted(SPEAKING)), JSON | st.binary(max_size=30), st.booleans())
def test_no_bytes_whatsoever_make_it_raise(operation: str, said: Any, is_stream: bool) -> None:
    body = said if isinstance(said, bytes) else (stream(said) if is_stream else whole(said))
    spoken, asked = read_spoken(operation, body, is_stream=is_stream), read_asked(operation, body)
    if spoken is not None:
        structured_output_failed(asked, spoken)
        tool_use_failed(asked, spoken)
