"""Answers pass byte for byte; only tool lists are thinned out, and only where they must be."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.tools.mcp_stream import (
    NOTE_LIMIT_BYTES,
    Change,
    changed_body,
    changed_document,
    changed_event,
    changed_events,
    event_data,
    is_last_word,
    noted_body,
    released_events,
    visible_tools,
    whole_events,
)
from inference.errors import BackendBroke


def listing(*names: str, **extra: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": name, "x-new": 1} for name in names], **extra}}


def event(message: Any, end: str = "\n\n") -> bytes:
    return f"event: message\nid: 7\ndata: {json.dumps(message)}".encode() + end.encode()


async def stream(parts: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def collect(chunks: AsyncGenerator[bytes]) -> list[bytes]:
    return [chunk async for chunk in chunks]


ONLY_A = Change(b"tools", lambda message: visible_tools(message, lambda name: name == "a"))


def test_hidden_tools_are_gone_and_the_others_keep_every_field() -> None:
    filtered = json.loads(changed_document(json.dumps(listing("a", "b", nextCursor="c")).encode(), ONLY_A))
    assert filtered == listing("a", nextCursor="c")


def test_a_list_that_depends_on_the_caller_is_private() -> None:
    filtered = json.loads(changed_document(json.dumps(listing("a", cacheScope="public", ttlMs=5)).encode(), ONLY_A))
    assert filtered["result"]["cacheScope"] == "private"
    assert filtered["result"]["ttlMs"] == 5


def test_a_list_without_anything_to_hide_keeps_its_bytes() -> None:
    body = b'{"result" : {"tools":[{"name":"a"}] } , "id":1}'
    assert changed_document(body, ONLY_A) == body


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_an_event_with_a_list_is_thinned_out_and_keeps_its_id(end: str) -> None:
    filtered = changed_event(event(listing("a", "b"), end), ONLY_A)
    assert b"id: 7" in filtered
    assert json.loads(event_data(filtered)) == listing("a")
    assert filtered.endswith(b"\n\n")


def test_a_key_written_with_escapes_hides_no_list() -> None:
    hidden = event(listing("a", "b")).replace(b'"tools"', b'"\\u0074ools"')
    assert json.loads(event_data(changed_event(hidden, ONLY_A))) == listing("a")


def test_foreign_events_and_comments_keep_their_bytes() -> None:
    for raw in (b": ping\r\n\r\n", b"retry: 100\ndata:\n\n", event({"method": "notifications/tools"})):
        assert changed_event(raw, ONLY_A) == raw


def test_a_list_that_cannot_be_read_is_broken_and_not_passed_on() -> None:
    with pytest.raises(BackendBroke):
        changed_document(b'{"result":{"tools":[', ONLY_A)
    with pytest.raises(BackendBroke):
        changed_event(b"data: {tools\n\n", ONLY_A)


async def test_a_body_is_read_whole_before_it_is_judged() -> None:
    body = json.dumps(listing("a", "b")).encode()
    assert json.loads(b"".join(await collect(changed_body(stream([body[:9], body[9:]]), ONLY_A)))) == listing("a")


@given(st.lists(st.integers(1, 30), max_size=40))
async def test_events_are_cut_right_wherever_the_network_cuts(cuts: list[int]) -> None:
    whole = event({"n": 1}) + b": ping\r\n\r\n" + event(listing("a", "b"), "\r\n\r\n") + b"data: tail"
    parts: list[bytes] = []
    rest = whole
    for cut in cuts:
        parts, rest = [*parts, rest[:cut]], rest[cut:]
    parts.append(rest)
    assert b"".join(await collect(whole_events(stream(parts)))) == whole
    filtered = b"".join(await collect(changed_events(stream(parts), ONLY_A)))
    assert b'"b"' not in filtered
    assert filtered.startswith(event({"n": 1}))


async def test_what_comes_before_the_answer_is_released_at_once_and_the_answer_is_not() -> None:
    question, answer = event({"id": 1, "method": "sampling/createMessage"}), event({"id": 1, "result": {}})
    assert await collect(released_events(stream([question + answer]))) == [question, b"", answer]
    assert is_last_word(event({"id": 1, "error": {}}))
    assert not is_last_word(b": ping\n\n")


UNREADABLE = [
    b"[" * 100_000,
    b'{"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"result":' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("document", UNREADABLE)
async def test_what_cannot_be_read_is_broken_or_held_and_never_a_fault_of_ours(document: bytes) -> None:
    may_concern = document + b"\\u"
    for change in (changed_document, lambda raw, how: changed_event(b"data: " + raw + b"\n\n", how)):
        with pytest.raises(BackendBroke):
            change(may_concern, ONLY_A)
    assert b"".join(await collect(noted_body(stream([may_concern]), ONLY_A))) == may_concern
    assert is_last_word(b"data: " + document + b"\n\n"), "what may be an answer waits for its outcome"


@pytest.mark.parametrize("body", [b'{"a": "taskId"}', b'{"a": "task\\u0049d"}'])
async def test_a_noted_body_keeps_its_bytes_and_is_seen_before_the_end(body: bytes) -> None:
    seen: list[Any] = []
    assert await collect(noted_body(stream([body[:5], body[5:]]), Change(b"taskId", seen.append))) == [
        body[:5],
        body[5:],
    ]
    assert seen == [{"a": "taskId"}]


@pytest.mark.parametrize("body", [b"{}", b'{"taskId', json.dumps({"taskId": "x" * NOTE_LIMIT_BYTES}).encode()])
async def test_what_says_nothing_or_too_much_passes_unseen(body: bytes) -> None:
    seen: list[Any] = []
    assert b"".join(await collect(noted_body(stream([body]), Change(b"taskId", seen.append)))) == body
    assert seen == []
