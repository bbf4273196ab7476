"""The whole gateway, over HTTP and gRPC: the same question is paid for once, and only while there is money."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from controlplane.wiring import ControlPlane
from inference.tfserving.predict import encode_predict
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World, listening, until

CHAT = {"model": "tiny", "temperature": 0, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PRICE = {"input_per_million_usd": 1000, "output_per_million_usd": 5000}


class Shop:
    """A gateway that saves answers and counts money, and what stands behind it."""

    def __init__(self, plane: ControlPlane, world: World, url: str, http: aiohttp.ClientSession) -> None:
        self.plane, self.world, self.url, self.http = plane, world, url, http

    async def chat(self, agent: str = "good", **fields: Any) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"authorization": f"Bearer {self.world.tokens[agent]}"}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=CHAT | fields, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def get(self, path: str) -> Any:
        headers = {"authorization": f"Bearer {self.world.tokens['good']}"}
        async with self.http.get(f"{self.url}{path}", headers=headers) as answer:
            return await answer.json()

    def asked(self) -> int:
        """Calls that reached a model; that the gateway looks after its servers meanwhile is another matter."""
        return sum(call != "GetModelStatus" for call in self.world.upstream.calls)

    def held(self) -> list[int]:
        """What is held back and not settled, on each account."""
        spent = self.plane.ledger.read(kinds=["outcome"])
        real = sum(record.body["outcome"]["cost"]["micro_usd"] for record in spent)
        return [use.spent_micro_usd - real for use in self.plane.spending.budgets()]

    async def outcomes(self, count: int) -> list[Mapping[str, Any]]:
        await until(lambda: len(self.plane.ledger.read(kinds=["outcome"])) >= count)
        return [record.body["outcome"] for record in self.plane.ledger.read(kinds=["outcome"])]


@asynccontextmanager
async def open_shop(folder: Path, *duties: Mapping[str, Any]) -> AsyncGenerator[Shop]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        world = World(folder, upstream)
        world.build()
        role = {"id": "good.everything", "on": ["/model/**", "/api/**"], "do": "*", "effect": "allow"}
        rules = [role | {"on": "/model/**", "oblige": duties}, role | {"id": "good.api", "on": "/api/**"}]
        (folder / "policies/roles/good.yaml").write_text(json.dumps({"role": "good", "rules": rules}))
        models = json.loads((folder / "policies/catalog/models.yaml").read_text())
        for model in models["models"]:
            model["price"] = PRICE if model["name"] == "tiny" else {"per_call_usd": 0.01}
        (folder / "policies/catalog/models.yaml").write_text(json.dumps(models))
        plane = await stack.enter_async_context(ControlPlane(world.settings()))
        port = await stack.enter_async_context(listening(plane.app))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Shop(plane, world, f"http://127.0.0.1:{port}", http)


@pytest.mark.parametrize("streams", [False, True])
async def test_the_same_question_is_asked_once_and_the_ledger_says_what_it_saved(tmp_path: Path, streams: bool) -> None:
    async with open_shop(tmp_path, {"cache": {"ttl_s": 60}}) as shop:
        status, headers, first = await shop.chat(stream=streams)
        assert (status, headers.get("x-cache")) == (200, None)
        status, headers, second = await shop.chat(stream=streams)
        assert (status, headers["x-cache"], headers["age"], second) == (200, "hit", "0", first)
        assert "x-degraded" not in headers
        assert shop.asked() == 1
        made, saved = await shop.outcomes(2)
        assert (made["rung"], saved["rung"]) == ("primary", "cached")
        assert made["cost"]["micro_usd"] > 0
        assert saved["cost"]["micro_usd"] == 0
        assert saved["cost"]["saved_micro_usd"] == made["cost"]["micro_usd"]
        (row,) = (await shop.get("/api/costs?by=model&by=agent"))["costs"]
        assert (row["agent"], row["calls"], row["saved"], row["micro_usd"]) == (
            "agent:good", 2, 1, made["cost"]["micro_usd"],
        )  # fmt: skip


async def test_grpc_says_that_an_answer_was_saved_too(tmp_path: Path) -> None:
    async with open_shop(tmp_path, {"cache": {"ttl_s": 60}}) as shop:
        await shop.world.upstream.greeted.wait()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.plane.grpc_port}") as channel:
            body = encode_predict("risk", {"x": np.zeros((1, 2), np.float32)})
            told = []
            for _ in range(2):
                call = channel.unary_unary(PREDICT)(
                    body, metadata=(("authorization", f"Bearer {shop.world.tokens['good']}"),), wait_for_ready=True
                )
                await call
                told.append(dict(await call.trailing_metadata()))
        assert [each.get("x-cache") for each in told] == [None, "hit"]
        assert [each["cost"] for each in await shop.outcomes(2)] == [
            {"micro_usd": 10_000},
            {"micro_usd": 0, "saved_micro_usd": 10_000},
        ]


async def test_without_leave_the_same_question_is_asked_again(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        for _ in range(2):
            assert (await shop.chat())[1].get("x-cache") is None
        assert shop.asked() == 2


async def test_a_spent_budget_is_429_with_its_facts_and_nothing_goes_out(tmp_path: Path) -> None:
    async with open_shop(tmp_path, {"budget": {"key": "subject", "per": "month", "max_usd": 0.12}}) as shop:
        answers = []
        for _ in range(9):
            answers.append(await shop.chat())
            await until(lambda: sum(shop.held()) == 0)  # a call is settled when its outcome is durable
        spent = [each["cost"]["micro_usd"] for each in await shop.outcomes(1)]
        statuses = [status for status, _, _ in answers]
        assert statuses == sorted(statuses), "once spent, spent"
        assert (statuses[0], statuses[-1]) == (200, 429)
        assert shop.asked() == len(spent) == statuses.count(200)
        _, headers, body = answers[-1]
        assert int(headers["retry-after"]) >= 1
        assert headers["x-should-retry"] == "false"
        error = json.loads(body)["error"]
        assert (error["code"], error["budget"]["limits"][0]["spent_micro_usd"]) == ("budget_exhausted", sum(spent))
        (budget,) = (await shop.get("/api/costs/budgets"))["budgets"]
        assert (budget["who"], budget["spent_micro_usd"]) == ("agent:good", sum(spent))


async def test_a_budget_outlives_the_gateway(tmp_path: Path) -> None:
    async with open_shop(tmp_path, {"budget": {"key": "tenant", "per": "month", "max_usd": 0.12}}) as shop:
        while (await shop.chat())[0] == 200:
            pass
    async with ControlPlane(shop.world.settings()) as again:
        (use,) = again.spending._opened.spent(again.clock.wall()).values()
        assert use == sum(each.body["outcome"]["cost"]["micro_usd"] for each in again.ledger.read(kinds=["outcome"]))
