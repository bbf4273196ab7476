"""The OpenAI contract on the fake, and the faults that only a fake has on demand."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.vllm import VllmBackend
from tests.contracts.fake_openai import KEY, FakeOpenAI, running_fake
from tests.contracts.openai_contract import OpenAIBackendContract, Served, chat, events_of, stops, whole

SOON_S = 0.05
CONNECTED_S = 1.0  # long enough for a busy machine to connect to itself


@pytest.fixture
async def fake() -> AsyncGenerator[FakeOpenAI]:
    async with running_fake() as fake:
        yield fake


@pytest.fixture
def served(fake: FakeOpenAI, tmp_path: Path) -> Served:
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    return Served(fake.origin, key_file, fake.running_requests)


@pytest.fixture
async def backend(served: Served) -> AsyncGenerator[VllmBackend]:
    backend = VllmBackend(served.settings())
    yield backend
    await backend.aclose()


class TestFakeServer(OpenAIBackendContract):
    pass


async def error_of(backend: VllmBackend, request) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await whole(backend, request)
    return caught.value


@pytest.mark.parametrize("model", ["hang-before-head", "hang-after-head"])
async def test_no_first_event_in_time_is_a_timeout_and_hangs_up(served: Served, model: str) -> None:
    backend = VllmBackend(served.settings(first_byte_timeout_s=SOON_S))
    error = await error_of(backend, chat(stream=True, model=model))
    assert isinstance(error, BackendTimeout)
    assert error.reason == "first_byte_timeout"
    await stops(served)
    await backend.aclose()


async def test_stalled_stream_times_out_after_what_it_said(served: Served) -> None:
    backend = VllmBackend(served.settings(stall_timeout_s=SOON_S))
    async with backend.send(chat(stream=True, model="stall")) as reply:
        assert b"one" in await anext(reply.chunks)
        with pytest.raises(BackendTimeout, match="stalled"):
            await anext(reply.chunks)
    await stops(served)
    await backend.aclose()


@pytest.mark.parametrize(
    ("model", "reason"), [("cut", "cut"), ("no-done", "truncated"), ("error-event", "error_event")]
)
async def test_broken_stream_shows_only_whole_events(backend: VllmBackend, model: str, reason: str) -> None:
    seen = bytearray()

    async def read() -> None:
        async with backend.send(chat(stream=True, model=model)) as reply, aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                seen.extend(chunk)

    with pytest.raises(BackendBroke) as caught:
        await read()
    assert caught.value.reason == reason
    said = [json.loads(data)["choices"][0]["delta"]["content"] for data in events_of(bytes(seen))]
    assert said == ["one"] or reason == "cut", "a cut may overtake what was said before it, nothing else may"
    assert bytes(seen).count(b"\n\n") == len(said), "half an event was let out"


@pytest.mark.parametrize(
    ("model", "reason"),
    [("hang-up", "hung_up"), ("cut-plain", "cut"), ("boom", "upstream_500"), ("redirect", "upstream_307")],
)
async def test_server_that_fails_is_broken(backend: VllmBackend, model: str, reason: str) -> None:
    error = await error_of(backend, chat(model=model))
    assert isinstance(error, BackendBroke)
    assert error.reason == reason


@pytest.mark.parametrize(("model", "reason", "wait_s"), [("busy", "busy", 7), ("limited", "rate_limited", 3)])
@pytest.mark.parametrize("stream", [False, True])
async def test_busy_server_says_when_to_come_back(
    backend: VllmBackend, model: str, reason: str, wait_s: float, stream: bool
) -> None:
    error = await error_of(backend, chat(model=model, stream=stream))
    assert isinstance(error, BackendUnavailable)
    assert (error.reason, error.retry_after_s) == (reason, wait_s)
    assert error.detail == "The engine is busy."


async def test_stream_that_begins_with_an_error_never_begins(backend: VllmBackend) -> None:
    """Nothing has been lent out yet, so a lighter model may still answer."""
    error = await error_of(backend, chat(stream=True, model="error-first"))
    assert (error.reason, error.detail) == ("error_event", "EngineDeadError")


async def test_routers_own_404_reaches_the_caller(backend: VllmBackend) -> None:
    reply, body = await whole(backend, chat(model="no-route"))
    assert (reply.status, json.loads(body)) == (404, {"detail": "Not Found"})


async def test_nobody_listening_is_unavailable(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = VllmBackend(replace(served, origin=f"http://127.0.0.1:{taken.getsockname()[1]}").settings())
        error = await error_of(backend, chat())
        assert isinstance(error, BackendUnavailable)
        assert error.reason == "connect_failed"
        assert not await backend.is_alive()
        await backend.aclose()


async def test_unknown_host_is_unavailable(served: Served) -> None:
    backend = VllmBackend(replace(served, origin="http://no-such-host.invalid").settings())
    error = await error_of(backend, chat())
    assert isinstance(error, BackendUnavailable)
    await backend.aclose()


async def test_no_free_connection_in_time_is_a_busy_server_and_not_one_that_is_gone(served: Served) -> None:
    backend = VllmBackend(served.settings(max_connections=1, connect_timeout_s=CONNECTED_S))
    async with backend.send(chat(stream=True, max_tokens=900)):
        error = await error_of(backend, chat())
    assert isinstance(error, BackendUnavailable)
    assert error.reason == "busy", "breakers and pools would take it for dead"
    assert "1 connections" in str(error)
    assert await whole(backend, chat()), "what is counted is given back"
    await backend.aclose()


async def test_a_key_file_that_cannot_be_read_is_unavailable_and_sends_nothing(
    fake: FakeOpenAI, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for file in (Path("/nowhere/key"), tmp_path / "binary"):
        backend = VllmBackend(served.settings(api_key_file=file))
        error = await error_of(backend, chat())
        assert (error.reason, fake.seen) == ("credential_missing", [])
        await backend.aclose()


async def test_callers_credentials_never_leave(fake: FakeOpenAI, backend: VllmBackend) -> None:
    given = (
        ("authorization", "Bearer the-agents-token"),
        ("x-api-key", "the-agents-token"),
        ("cookie", "a=b"),
        ("x-stainless-retry-count", "1"),
        ("traceparent", "00-1-2-01"),
        ("user-agent", "bad\r\nx-evil: 1"),
        ("accept-encoding", "gzip"),
    )
    await whole(backend, structs.replace(chat(), headers=given))
    (_, headers, _) = fake.seen[0]
    seen = {name.lower(): value for name, value in headers.items()}
    assert seen["authorization"] == f"Bearer {KEY}"
    assert (seen["x-stainless-retry-count"], seen["traceparent"]) == ("1", "00-1-2-01")
    assert seen["accept-encoding"] == "identity"
    assert seen["x-request-id"] == "call-1"
    assert not set(seen) & {"cookie", "x-api-key", "x-evil", "user-agent"}


async def test_body_arrives_with_the_tenants_salt_in_front_and_else_byte_for_byte(
    fake: FakeOpenAI, backend: VllmBackend
) -> None:
    odd = b' {"messages" : [], "model":"tiny",  "max_tokens": 2, "top_p":1e0 }\n'
    for tenant in ("acme", "globex"):
        await whole(backend, structs.replace(chat(), body=odd, tenant=tenant))
    first, second = (body for _, _, body in fake.seen)
    assert first.partition(b",")[2] == second.partition(b",")[2] == odd.partition(b"{")[2]
    assert json.loads(first)["cache_salt"] != json.loads(second)["cache_salt"]


async def test_request_that_would_reach_past_its_answer_never_leaves(fake: FakeOpenAI, backend: VllmBackend) -> None:
    error = await error_of(backend, chat(kv_transfer_params={"remote_host": "inside"}))
    assert isinstance(error, BackendRejected)
    assert (error.reason, fake.seen) == ("unsafe_parameter", [])


async def test_server_of_another_make_gets_the_body_as_it_is(fake: FakeOpenAI, served: Served) -> None:
    backend = VllmBackend(served.settings(dialect="openai"))
    odd = b' {"messages" : [], "model":"tiny",  "max_tokens": 2, "top_p":1e0 }\n'
    await whole(backend, structs.replace(chat(), body=odd))
    assert fake.seen[0][2] == odd
    await backend.aclose()


async def test_large_body_is_sent_without_a_warning(fake: FakeOpenAI, backend: VllmBackend) -> None:
    reply, _ = await whole(backend, chat(padding="x" * 3_000_000))
    assert reply.status == 200
    assert len(fake.seen[0][2]) > 3_000_000


async def test_huge_event_passes_whole_within_the_limit(backend: VllmBackend) -> None:
    _, body = await whole(backend, chat(stream=True, model="huge-event"))
    first, done = events_of(body)
    assert (len(json.loads(first)["choices"][0]["delta"]["content"]), done) == (300_000, "[DONE]")


async def test_event_beyond_the_limit_is_broken(served: Served) -> None:
    backend = VllmBackend(served.settings(max_event_bytes=100_000))
    error = await error_of(backend, chat(stream=True, model="huge-event"))
    assert error.reason == "event_too_long"
    await backend.aclose()


async def test_reply_beyond_the_limit_is_broken(served: Served) -> None:
    backend = VllmBackend(served.settings(max_reply_bytes=10))
    assert (await error_of(backend, chat())).reason == "reply_too_large"
    await backend.aclose()


async def test_model_is_renamed_where_the_server_knows_another_name(fake: FakeOpenAI, served: Served) -> None:
    backend = VllmBackend(served.settings(served_model="tiny-v2"))
    reply, _ = await whole(backend, chat(stream=True, model="our-name"))
    assert json.loads(fake.seen[0][2])["model"] == reply.served_by == "tiny-v2"
    await backend.aclose()


async def test_finished_calls_share_a_connection_and_abandoned_ones_lose_theirs(
    fake: FakeOpenAI, backend: VllmBackend
) -> None:
    for stream in (False, True, False):
        await whole(backend, chat(stream=stream))
    assert len(fake.connections) == 1
    async with backend.send(chat(stream=True, max_tokens=900)):
        pass
    await whole(backend, chat())
    assert len(fake.connections) == 2
