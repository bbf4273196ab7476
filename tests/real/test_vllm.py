"""The OpenAI contract on a real vLLM on the CPU, and what only the real one can say about itself.

Needs ``.venv-vllm`` beside the project; the tiny model it serves is made on the spot and means nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from inference.errors import BackendTimeout
from inference.vllm import VllmBackend
from tests.contracts.openai_contract import OpenAIBackendContract, Served, chat, stops, whole
from tests.real.conftest import RunningVllm

pytestmark = pytest.mark.real("vllm")


async def metric(origin: str, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{origin}/metrics") as response:
        text = await response.text()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{"))


@pytest.fixture
def served(vllm: RunningVllm, key_file: Path) -> Served:
    async def running() -> int:
        return int(await metric(vllm.origin, "vllm:num_requests_running"))

    return Served(vllm.origin, key_file, running)


class TestRealVllm(OpenAIBackendContract):
    async def test_router_words_its_404_its_own_way(self, backend: VllmBackend) -> None:
        """A server that generates has no embeddings; callers get to read why."""
        request = replace(chat(), operation="embeddings", body=b'{"model": "tiny", "input": "x"}')
        reply, body = await whole(backend, request)
        assert reply.status in (400, 404)
        assert json.loads(body)

    async def test_responses_are_counted_plain_and_streamed(self, backend: VllmBackend) -> None:
        for stream in (False, True):
            fields = {"model": "tiny", "input": "hi", "max_output_tokens": 4, "stream": stream}
            request = replace(chat(), operation="responses", body=json.dumps(fields).encode(), streams=stream)
            reply, body = await whole(backend, request)
            assert reply.status == 200, body
            assert 0 < reply.usage.output_tokens <= 4

    async def test_abandoned_stream_costs_few_tokens(
        self, backend: VllmBackend, served: Served, record_property: Callable[[str, object], None]
    ) -> None:
        before = await metric(served.origin, "vllm:generation_tokens_total")
        async with backend.send(chat(stream=True, max_tokens=900)) as reply:
            await anext(reply.chunks)
        idle_s = await stops(served)
        spent = await metric(served.origin, "vllm:generation_tokens_total") - before
        record_property("idle_after_hang_up_ms", round(idle_s * 1000))
        record_property("tokens_generated_of_900", spent)
        assert spent < 450

    async def test_frozen_worker_is_alive_and_times_out(self, served: Served, vllm: RunningVllm) -> None:
        """Why health is never believed: the front answers while nothing behind it moves."""
        backend = VllmBackend(served.settings(first_byte_timeout_s=1.0))
        workers = [pid for pid in descendants(vllm.pid) if "EngineCore" in name_of(pid) or "Worker" in name_of(pid)]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert await backend.is_alive()
            with pytest.raises(BackendTimeout, match="first_byte_timeout"):
                await whole(backend, chat(stream=True))
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        await stops(served)
        replies = await asyncio.gather(whole(backend, chat(stream=True)))
        assert replies[0][0].status == 200
        await backend.aclose()


def descendants(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in read(task / "children").split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def name_of(pid: int) -> str:
    return read(Path(f"/proc/{pid}/comm")) + read(Path(f"/proc/{pid}/cmdline"))


def read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
