"""What holds for every OpenAI-compatible server behind ``VllmBackend``: one body, for the fake and for the real ones.

A test class inherits it and provides the fixture ``served``. What a server has no notion of it names in ``lacks``; the
test that needs it is skipped and says so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendRejected, BackendTimeout, BackendUnavailable
from inference.sse import EventParser
from inference.vllm import VllmBackend, VllmSettings

ABORT_LIMIT_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True)
class Served:
    """A server that serves the model ``tiny`` and asks for the key in ``key_file``."""

    origin: str
    key_file: Path
    running_requests: Callable[[], Awaitable[int]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()

    def needs(self, *notions: str) -> None:
        if missing := self.lacks.intersection(notions):
            pytest.skip(f"the server has no {', '.join(sorted(missing))}")

    def settings(self, **changes: object) -> VllmSettings:
        return VllmSettings(
            **{"base_url": f"{self.origin}/v1", "api_key_file": self.key_file, **self.defaults, **changes}
        )


def chat(*, stream: bool = False, max_tokens: int = 4, model: str = "tiny", **more: object) -> BackendRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "def hello(name):"}], "max_tokens": max_tokens}
    body |= {"temperature": 0, "ignore_eos": True} | ({"stream": True} if stream else {}) | more
    return BackendRequest(
        call_id="call-1", target=model, operation="chat", body=json.dumps(body).encode(), streams=stream
    )


async def whole(backend: VllmBackend, request: BackendRequest) -> tuple[BackendReply, bytes]:
    async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
        return reply, b"".join([chunk async for chunk in chunks])


def events_of(body: bytes) -> list[str]:
    return [event.data for event in EventParser().feed(body)]


class OpenAIBackendContract:
    @pytest.fixture
    async def backend(self, served: Served) -> AsyncGenerator[VllmBackend]:
        backend = VllmBackend(served.settings())
        yield backend
        await backend.aclose()

    async def test_plain_chat_is_answered_and_counted(self, backend: VllmBackend, served: Served) -> None:
        reply, body = await whole(backend, chat())
        assert (reply.status, reply.served_by, reply.rung) == (200, served.settings().served_model or "tiny", "primary")
        assert json.loads(body)["choices"][0]["message"]["role"] == "assistant"
        assert reply.usage.output_tokens == 4
        assert reply.usage.input_tokens > 0
        assert reply.usage.cached_tokens is not None or "cached tokens" in served.lacks
        assert ("content-length", str(len(body))) in reply.headers

    @pytest.mark.parametrize("operation", ["chat", "completions"])
    async def test_streamed_reply_is_counted_though_nobody_asked(
        self, backend: VllmBackend, served: Served, operation: str
    ) -> None:
        request = chat(stream=True)
        if operation == "completions":
            prompt = {"model": "tiny", "prompt": "import", "max_tokens": 4, "ignore_eos": True, "stream": True}
            request = replace(request, operation=operation, body=json.dumps(prompt).encode())
        reply, body = await whole(backend, request)
        *tokens, done = events_of(body)
        assert done == "[DONE]"
        assert tokens
        assert all(json.loads(token)["choices"] for token in tokens), "the usage chunk is not the caller's"
        assert not any("usage" in json.loads(token) for token in tokens) or "usage on demand" in served.lacks
        assert reply.usage.output_tokens == 4
        assert reply.usage.input_tokens > 0

    async def test_tokens_of_a_stream_that_is_left_are_known_so_far(self, backend: VllmBackend, served: Served) -> None:
        served.needs("running usage")
        async with backend.send(chat(stream=True, max_tokens=900)) as reply, aclosing(reply.chunks) as chunks:
            said = b""
            while said.count(b'"content":') < 3:
                said += await anext(chunks)
            assert b'"usage"' not in said
        assert 2 <= reply.usage.output_tokens < 900
        assert reply.usage.input_tokens > 0

    async def test_running_usage_reaches_the_caller_who_asked(self, backend: VllmBackend, served: Served) -> None:
        served.needs("running usage")
        options = {"include_usage": True, "continuous_usage_stats": True}
        _, body = await whole(backend, chat(stream=True, stream_options=options))
        *tokens, _ = events_of(body)
        assert all("usage" in json.loads(token) for token in tokens)

    async def test_usage_chunk_reaches_the_caller_who_asked(self, backend: VllmBackend, served: Served) -> None:
        served.needs("usage on demand")
        reply, body = await whole(backend, chat(stream=True, stream_options={"include_usage": True}))
        *tokens, last, done = events_of(body)
        assert done == "[DONE]"
        assert not any("usage" in json.loads(token) for token in tokens), "he asked for one at the end"
        assert json.loads(last)["choices"] == []
        assert json.loads(last)["usage"]["completion_tokens"] == reply.usage.output_tokens == 4

    async def test_every_chunk_is_made_of_whole_events(self, backend: VllmBackend) -> None:
        async with backend.send(chat(stream=True, max_tokens=16)) as reply, aclosing(reply.chunks) as chunks:
            assert all([chunk.endswith(b"\n\n") async for chunk in chunks])

    async def test_replies_carry_no_cookie_and_no_connection_header(self, backend: VllmBackend) -> None:
        reply, _ = await whole(backend, chat(stream=True))
        assert not {name for name, _ in reply.headers} & {"set-cookie", "transfer-encoding", "connection", "server"}

    @pytest.mark.parametrize("stream", [False, True])
    async def test_unknown_model_is_the_callers_to_read(
        self, backend: VllmBackend, served: Served, stream: bool
    ) -> None:
        served.needs("choice of models")
        reply, body = await whole(backend, chat(model="nope", stream=stream))
        assert reply.status == 404
        assert "nope" in json.loads(body)["error"]["message"]

    async def test_bad_request_is_the_callers_to_read(self, backend: VllmBackend, served: Served) -> None:
        served.needs("limits")
        reply, body = await whole(backend, chat(max_tokens=5000))
        assert reply.status == 400
        assert "max_tokens" in json.loads(body)["error"]["message"]

    async def test_refused_key_is_not_the_callers_fault(self, served: Served, tmp_path: Path) -> None:
        served.needs("keys")
        wrong = tmp_path / "wrong"
        wrong.write_text("not-the-key")
        backend = VllmBackend(served.settings(api_key_file=wrong))
        with pytest.raises(BackendUnavailable) as caught:
            await whole(backend, chat())
        assert (caught.value.reason, caught.value.detail) == ("credential_refused", "Unauthorized")
        wrong.write_text(served.key_file.read_text())
        reply, _ = await whole(backend, chat())
        assert reply.status == 200, "the mended key is read again"
        await backend.aclose()

    async def test_unknown_operation_never_becomes_a_path(self, backend: VllmBackend) -> None:
        with pytest.raises(BackendRejected):
            await whole(backend, replace(chat(), operation="../invocations"))

    async def test_leaving_a_stream_stops_the_work(self, backend: VllmBackend, served: Served) -> None:
        async with backend.send(chat(stream=True, max_tokens=900)) as reply:
            assert await anext(reply.chunks)
            assert await served.running_requests() == 1
        await stops(served)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_cancelling_the_caller_stops_the_work(
        self, backend: VllmBackend, served: Served, stream: bool
    ) -> None:
        if not stream:
            served.needs("end of plain work")
        call = asyncio.ensure_future(whole(backend, chat(stream=stream, max_tokens=900)))
        await until(served, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await stops(served)

    async def test_deadline_passes_and_stops_the_work(self, backend: VllmBackend, served: Served) -> None:
        served.needs("end of plain work")
        with pytest.raises(BackendTimeout) as caught:
            await whole(backend, replace(chat(max_tokens=900), timeout_s=0.3))
        assert caught.value.reason == "deadline"
        await stops(served)

    async def test_many_calls_at_once_are_all_answered(self, backend: VllmBackend) -> None:
        replies = await asyncio.gather(*(whole(backend, chat(stream=number % 2 == 0)) for number in range(16)))
        assert [reply.usage.output_tokens for reply, _ in replies] == [4] * 16

    async def test_server_that_is_up_is_alive(self, backend: VllmBackend) -> None:
        assert await backend.is_alive()

    async def test_closed_backend_says_so(self, backend: VllmBackend) -> None:
        await backend.aclose()
        with pytest.raises(BackendUnavailable):
            await whole(backend, chat())
        assert not await backend.is_alive()


async def stops(served: Served) -> float:
    """Seconds until the server is idle."""
    return await until(served, 0)


async def until(served: Served, running: int) -> float:
    """Another process tells its state only when it is asked: a bounded poll."""
    began = time.monotonic()
    while await served.running_requests() != running:
        assert time.monotonic() - began < ABORT_LIMIT_S, f"the server never had {running} requests running"
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began
