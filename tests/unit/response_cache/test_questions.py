"""Which calls may share an answer: any difference that could matter is another question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from controlplane.response_cache.questions import key_of
from inference.backend import BackendRequest, Reuse

SECRET = b"s" * 32
CHAT = {"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
LEAVE = Reuse(60)


def chat(fields: dict[str, Any] | None = None, **changes: Any) -> BackendRequest:
    body = json.dumps(CHAT if fields is None else fields).encode()
    asked = BackendRequest(
        call_id="1", target="tiny", operation="chat", body=body, tenant="acme", scope="acme:r1", reuse=LEAVE
    )
    return replace(asked, **changes)


def predict(**changes: Any) -> BackendRequest:
    return replace(chat(), **({"operation": "Predict", "target": "risk", "body": b"\x01\x02"} | changes))


def key(request: BackendRequest, version: str = "2", secret: bytes = SECRET) -> bytes | None:
    return key_of(request, version, secret)


names = st.text(max_size=8)
questions = st.fixed_dictionaries(
    {
        "tenant": names.filter(bool),
        "scope": names.filter(bool),
        "shaping": names,
        "target": names,
        "operation": st.sampled_from(["Predict", "Classify", "Regress"]),
        "version": names,
        "streams": st.booleans(),
        "body": st.binary(max_size=8),
    }
)


def key_of_parts(parts: dict[str, Any]) -> bytes | None:
    others = {name: parts[name] for name in ("tenant", "scope", "target", "operation", "streams", "body")}
    asked = BackendRequest(call_id="1", reuse=Reuse(60, shaping=parts["shaping"]), **others)
    return key_of(asked, parts["version"], SECRET)


@given(questions, questions)
def test_two_calls_share_a_key_only_when_nothing_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (key_of_parts(one) == key_of_parts(other)) == (one == other)


@given(questions, st.sampled_from(["tenant", "scope", "shaping", "target", "version", "body"]), st.data())
def test_any_one_difference_is_another_key(parts: dict[str, Any], name: str, data: st.DataObject) -> None:
    """Tenant, policy revision, shape, model and version."""
    fresh = data.draw(st.binary(max_size=8) if name == "body" else names.filter(bool))
    if fresh != parts[name]:
        assert key_of_parts(parts | {name: fresh}) != key_of_parts(parts)


@given(questions, st.sampled_from([("tenant", "scope"), ("scope", "shaping"), ("target", "version")]))
def test_text_cannot_move_from_one_part_to_its_neighbour(parts: dict[str, Any], pair: tuple[str, str]) -> None:
    """Or a tenant could be named so that its key is another's."""
    first, second = pair
    moved = parts | {first: parts[first] + "x", second: "y" + parts[second]}
    other = parts | {first: parts[first] + "xy", second: parts[second]}
    assert key_of_parts(moved) != key_of_parts(other) or moved == other


def test_a_key_cannot_be_guessed_without_the_secret() -> None:
    assert key(chat()) != key(chat(), secret=b"t" * 32)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0} | {name: CHAT[name] for name in ("model", "messages")},
    ],
)
def test_zero_written_as_a_fraction_is_another_question_and_still_one(fields: dict[str, Any]) -> None:
    assert key(chat(fields)) not in (None, key(chat()))


def test_spacing_order_and_labels_do_not_change_the_question() -> None:
    shuffled = json.dumps(CHAT | {"user": "u-17", "metadata": {"a": 1}}, indent=2, sort_keys=True).encode()
    assert key(chat(body=shuffled)) == key(chat())


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "ho"}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"max_tokens": 5},
        {"seed": 1},
        {"stream_options": {"include_usage": True}},
        {"model": "tiny-lora"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
def test_what_changes_the_answer_changes_the_question(change: dict[str, Any]) -> None:
    assert key(chat(CHAT | change)) not in (None, key(chat()))


def test_stream_and_whole_reply_are_not_given_for_each_other() -> None:
    assert key(chat(streams=True)) not in (None, key(chat()))


@pytest.mark.parametrize(
    "request_",
    [
        chat(reuse=None),
        chat(scope=""),
        chat(tenant=""),
        chat(CHAT | {"temperature": 0.7}),
        chat(CHAT | {"temperature": "0"}),
        chat(CHAT | {"temperature": False}),
        chat({name: CHAT[name] for name in ("model", "messages")}),
        chat(CHAT | {"web_search_options": {"search_context_size": "low"}}),
        chat(CHAT | {"tools": [{"type": "web_search"}]}),
        chat(CHAT | {"tools": "all"}),
        chat(CHAT | {"previous_response_id": "r"}, operation="responses"),
        chat(CHAT | {"tools": [{"type": "mcp"}]}, operation="responses"),
        chat(CHAT | {"prompt": {"id": "kept there"}}, operation="responses"),
        chat(CHAT | {"mcp_servers": [{"url": "x"}]}, operation="messages"),
        chat(CHAT | {"tools": [{"type": "web_search_20250305"}]}, operation="messages"),
        chat(body=b"not json"),
        chat(body=b"[1]"),
        chat(body=b'{"temperature":0,"messages":[{"content":"a","content":"b"}]}'),
        chat(body=b'{"temperature":0,"seed":1e999}'),
        chat(body=b'{"temperature":0,"a":"\\ud800"}'),
        chat(operation="models"),
        chat(operation="call"),
        chat(operation="GetModelMetadata"),
        chat(operation=""),
    ],
)
def test_what_is_not_certain_to_be_the_same_again_is_no_question(request_: BackendRequest) -> None:
    assert key(request_) is None


@pytest.mark.parametrize("operation", ["chat", "completions", "responses", "messages"])
def test_policy_may_let_drawn_text_be_given_again(operation: str) -> None:
    drawn = {"model": "tiny", "prompt" if operation == "completions" else "input": "x"}
    assert key(chat(drawn, operation=operation)) is None
    assert key(chat(drawn, operation=operation, reuse=Reuse(60, sampled=True))) is not None


def test_predictions_and_embeddings_need_no_temperature() -> None:
    assert key(predict()) is not None
    for operation in ("embeddings", "rerank", "score"):
        assert key(chat({"model": "m", "input": "x"}, operation=operation)) is not None


def test_a_response_repeats_its_labels_so_there_they_count() -> None:
    asked = {"model": "m", "input": "x", "temperature": 0}
    one, other = (chat(asked | {"metadata": {"n": n}}, operation="responses") for n in ("1", "2"))
    assert key(one) not in (None, key(other))
