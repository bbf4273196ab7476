"""Embeddings, ranks and scores of a real vLLM through the whole gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.real.conftest import POOLS, RunningVllm, running_vllm
from tests.real.vllm_gate import Gate, running_gate

pytestmark = pytest.mark.real("vllm")

DOCUMENTS = ["def hello(name):", "import os", "class Door:"]


@pytest.fixture(scope="module")
def pooling(key_file: Path) -> Iterator[RunningVllm]:
    with running_vllm(key_file, *POOLS) as server:
        yield server


@pytest.fixture
async def gate(pooling: RunningVllm, key_file: Path, tmp_path: Path) -> AsyncGenerator[Gate]:
    async with running_gate(pooling, key_file, tmp_path, schedules_by_priority=True) as gate:
        yield gate


async def told(gate: Gate, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {gate.tokens['acme']}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(gate.url + path, json=body) as response:
        return response.status, await response.json()


async def test_embeddings_come_to_the_official_sdk_and_are_counted(gate: Gate) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=gate.tokens["acme"], max_retries=0) as client:
        answer = await client.embeddings.create(model="tiny", input=DOCUMENTS)
    assert [len(each.embedding) for each in answer.data] == [64, 64, 64]
    (outcome,) = await gate.outcomes(1)
    assert outcome["tokens"]["in"] == answer.usage.prompt_tokens


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_are_ranked_under_every_path_that_clients_use(gate: Gate, path: str) -> None:
    status, document = await told(gate, path, {"model": "tiny", "query": "import os", "documents": DOCUMENTS})
    assert status == 200, document
    assert document["results"][0]["index"] == 1
    (outcome,) = await gate.outcomes(1)
    assert outcome["tokens"]["in"] == document["usage"]["prompt_tokens"]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]
)
async def test_texts_are_scored_by_whatever_names_they_come(gate: Gate, path: str, names: tuple[str, str]) -> None:
    status, document = await told(gate, path, {"model": "tiny", names[0]: "import os", names[1]: DOCUMENTS})
    assert status == 200, document
    assert len(document["data"]) == 3


async def test_what_a_pooling_server_does_not_do_is_told_as_it_tells_it(gate: Gate) -> None:
    """The same words as without the gateway; vLLM's router has no such route."""
    status, document = await told(gate, "/v1/completions", {"model": "tiny", "prompt": "hi"})
    assert (status, document) == (404, {"detail": "Not Found"})
