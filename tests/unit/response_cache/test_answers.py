"""What is worth saving, and that it comes back as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from controlplane.response_cache.answers import Saved, is_sound, is_the_models_own, read, written
from controlplane.response_cache.memory import MemoryStore
from inference.backend import BackendReply, BackendRequest, Usage

ASKED = BackendRequest(call_id="1", target="risk", operation="Predict")
REPLY = BackendReply(200, (), chunks=None, served_by="risk/2")  # type: ignore[arg-type]  # nobody reads them


def saved(body: bytes = b"x" * 10, **more: object) -> Saved:
    return replace(Saved((), (body,), "risk/2", 100.0, 60), **more)  # type: ignore[arg-type]  # any field


def test_written_answer_reads_the_same() -> None:
    reply = structs.replace(REPLY, headers=(("Content-Type", "a/b"), ("x-request-id", "7")), usage=Usage(3, None, 0))
    before = Saved.of(reply, [b"a", b"b"], 100.5, 60)
    assert before.headers == (("content-type", "a/b"),), "what belongs to one call alone is not kept"
    after = read(written(before))
    assert after == before
    assert after is not None
    assert (after.usage(), after.size_bytes) == (Usage(3, None, 0), before.size_bytes)


@pytest.mark.parametrize(
    "text", [b"", b"\x00", b"\x90", b"\x96\x90\x90\xa1\xff", written(saved())[:-1], written(saved()) + b"\x00"]
)
def test_what_nobody_of_us_wrote_is_no_answer(text: bytes) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("reply", "version", "own"),
    [
        (REPLY, "2", True),
        (structs.replace(REPLY, served_by="risk/2@replica-b"), "2", True),
        (structs.replace(REPLY, served_by="risk/3"), "2", False),  # the label moved meanwhile
        (structs.replace(REPLY, served_by="risk/22"), "2", False),
        (structs.replace(REPLY, served_by="risk"), "2", False),
        (structs.replace(REPLY, served_by="Qwen/tiny"), "vllm:Qwen/tiny", True),
        (structs.replace(REPLY, status=400), "2", False),
        (structs.replace(REPLY, rung="lighter"), "2", False),
        (structs.replace(REPLY, rung="cache", age_s=5), "2", False),
        (structs.replace(REPLY, rung="lighter"), "vllm:x", False),
    ],
)
def test_only_the_version_that_was_meant_speaks_for_itself(reply: BackendReply, version: str, own: bool) -> None:
    assert is_the_models_own(reply, ASKED, version) is own


@pytest.mark.parametrize(
    ("operation", "streams", "body", "sound"),
    [
        ("Predict", False, b"\x08", True),
        ("Predict", False, b"", False),
        ("chat", False, b'{"choices":[]}', True),
        ("chat", False, b'{"error":{"message":"no"}}', False),
        ("chat", False, b'{"error":null,"choices":[]}', True),
        ("chat", False, b"<html>", False),
        ("chat", False, b"[]", False),
        ("chat", True, b'data: {"choices":[]}\n\ndata: [DONE]\n\n', True),
        ("chat", True, b'data: {"choices":[]}\n\ndata: {"error":{"code":400}}\n\ndata: [DONE]\n\n', False),
        ("chat", True, b"data: [DONE]\n\n", False),
        ("responses", False, b'{"status":"completed","error":null}', True),
        ("responses", False, b'{"status":"incomplete","error":null}', False),
        ("responses", True, b'data: {"type":"x"}\n\ndata: {"response":{"status":"completed"}}\n\n', True),
        ("responses", True, b'data: {"response":{"status":"failed"}}\n\n', False),
        ("responses", True, b'data: {"response":null}\n\n', False),
        ("responses", True, b"data: [DONE]\n\n", False),
        ("chat", False, b'{"choices":"\xff"}', False),
        ("embeddings", False, b"[" * 100_000, False),
    ],
)
def test_the_word_of_a_failure_under_a_200_is_no_answer(
    operation: str, streams: bool, body: bytes, sound: bool
) -> None:
    assert is_sound(structs.replace(ASKED, operation=operation, streams=streams), body) is sound


@pytest.mark.parametrize(
    ("now_s", "ttl_s", "fresh"), [(100, 60, True), (159, 60, True), (160, 60, False), (130, 30, False), (99, 60, False)]
)
def test_an_answer_is_fresh_to_whom_its_age_is_allowed(now_s: float, ttl_s: int, fresh: bool) -> None:
    assert saved().is_fresh(now_s, ttl_s) is fresh


def test_memory_forgets_the_least_recently_used_to_stay_within_its_bytes() -> None:
    one = saved().size_bytes
    store = MemoryStore(2 * one, 10)
    assert [store.put(key, saved()) for key in (b"a", b"b")] == [0, 0]
    assert store.get(b"a", 100, 60) is not None
    assert store.put(b"c", saved()) == 1
    assert [store.get(key, 100, 60) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert store.size_bytes == 2 * one


def test_memory_is_bounded_in_number_too() -> None:
    store = MemoryStore(10**6, 2)
    assert [store.put(bytes([n]), saved()) for n in range(4)] == [0, 0, 1, 1]
    assert len(store) == 2


def test_answer_larger_than_all_of_memory_replaces_the_old_one_and_is_not_kept() -> None:
    store = MemoryStore(saved().size_bytes, 10)
    store.put(b"a", saved())
    store.put(b"a", saved(b"x" * 11))
    assert (len(store), store.size_bytes) == (0, 0)


def test_too_old_for_one_caller_is_kept_for_a_more_patient_one() -> None:
    store = MemoryStore(10**6, 10)
    store.put(b"a", saved())
    assert store.get(b"a", 130, 20) is None
    assert store.get(b"a", 130, 60) is not None
    assert store.get(b"a", 160, 999) is None
    assert store.size_bytes == 0
