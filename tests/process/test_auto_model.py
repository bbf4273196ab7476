"""``auto:<task>`` and feedback on it, through official clients and every protocol, with the whole gateway between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from audit import Record
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.wire import METHODS, spec_of
from tests.matrix.upstreams import Upstream
from tests.matrix.world import Gate, World, running

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hei"}]


@dataclass
class Running:
    gate: Gate
    token: str

    def sdk(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.gate.url}/v1", api_key=self.token)

    def records(self, kind: str) -> list[Record]:
        return self.gate.plane.ledger.read(after=self.gate.since, kinds=[kind])

    def selection(self, kind: str = "intent") -> dict[str, object]:
        return dict(self.records(kind)[0].body["decision"]["selection"])


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with Upstream() as upstream:
        world = World(tmp_path, upstream)
        world.build()
        async with running(world) as gate:
            yield Running(gate, world.tokens["good"])


async def test_an_unmodified_sdk_asks_for_a_task_and_says_what_the_answer_was_worth(gateway: Running) -> None:
    async with gateway.sdk() as client:
        raw = await client.chat.completions.with_raw_response.create(model="auto:chat", messages=ASK)
        assert raw.parse().choices[0].message.content == "hello"
        call_id = raw.headers["x-call-id"]
        told = await client.post("/feedback", cast_to=dict[str, object], body={"call_id": call_id, "correct": True})
        assert (told["call_id"], told["model"]) == (call_id, "tiny")
        with pytest.raises(openai.BadRequestError):
            await client.post("/feedback", cast_to=dict[str, object], body={"call_id": call_id, "score": 0})
    assert gateway.selection()["chosen"] == "tiny"
    assert gateway.selection()["why"] == "only"
    (record,) = gateway.records("feedback")
    assert (record.body["feedback"]["call"], record.body["feedback"]["score_ppm"]) == (call_id, 1_000_000)
    await gateway.gate.records(6)


async def test_a_streamed_answer_is_chosen_for_as_well(gateway: Running) -> None:
    async with gateway.sdk() as client:
        stream = await client.chat.completions.create(model="auto:chat", messages=ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello"[:3]
    assert gateway.selection()["chosen"] == "tiny"
    await gateway.gate.records(2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("auto:chat?max_price_usd=0&language=nb", "no_model_meets_constraints"),
        ("auto:poetry", "no_model_of_task"),
        ("auto:chat?colour=blue", "auto_constraint_unknown"),
    ],
)
async def test_who_cannot_be_served_is_told_why_and_does_not_try_again(
    gateway: Running, model: str, reason: str
) -> None:
    async with gateway.sdk() as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model=model, messages=ASK)
    assert caught.value.code == reason
    assert gateway.selection("deny")["reason"] == reason
    await gateway.gate.records(1)


async def test_a_task_of_tensors_is_asked_for_over_rest(gateway: Running) -> None:
    headers = {"authorization": f"Bearer {gateway.token}"}
    url = f"{gateway.gate.url}/v1/models/auto:classification:predict"
    async with aiohttp.ClientSession(headers=headers) as session:
        answer = await session.post(url, json={"instances": [[1.0, 2.0]]})
        assert await answer.json() == {"predictions": [[0.25, 0.75]]}
    assert gateway.selection()["chosen"] == "risk"
    await gateway.gate.records(2)


async def test_a_task_of_tensors_is_asked_for_over_grpc(gateway: Running) -> None:
    request = encode_predict("auto:classification", {"x": np.array([[1.0, 2.0]], np.float32)})
    assert spec_of(request).name == "auto:classification"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.gate.plane.grpc_port}") as channel:
        metadata = (("authorization", f"Bearer {gateway.token}"),)
        answer = await channel.unary_unary(METHODS["Predict"].path)(request, metadata=metadata)
    assert decode_predict(answer)["probabilities"].tolist() == [[0.25, 0.75]]
    assert gateway.records("intent")[0].body["action"]["name"] == "/model/risk"
    await gateway.gate.records(2)


async def test_a_task_of_tensors_is_not_for_those_who_speak_json(gateway: Running) -> None:
    async with gateway.sdk() as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model="auto:classification", messages=ASK)
    assert caught.value.code == "no_model_served"
    await gateway.gate.records(1)
