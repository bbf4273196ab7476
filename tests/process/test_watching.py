"""Watching through the whole gateway: a real SavedModel behind an embedded server, a monitor that reads over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from audit import Record
from controlplane.calls import Principal
from controlplane.drift.input_settings import InputSettings
from controlplane.drift.reference import reference_of, write_reference
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.monitor import HttpClient, Monitor, MonitorSettings, WatchedModel, monitor_of
from controlplane.settings import Settings
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import Upstream
from tests.matrix.world import MODEL, World, listening, until
from tests.unit.controlplane.rig import ModelServer, publish

GOOD, BAD = [0.5, -1.0], [0.5, 1e9]
MONITOR = Principal(subject="service:monitor", tenant="test", kind="service")
REFUSAL = "I'm sorry, but I can't help with that request."
HELD = 100  # observations that the gateway keeps


@dataclass
class Running:
    url: str
    plane: ControlPlane
    world: World
    monitor_token: Path

    async def predict(self, rows: list[list[float]]) -> Any:
        return await self._post("/v1/models/risk:predict", {"inputs": rows})

    async def ask(self, times: int) -> None:
        """Returns when the last call has been observed, which may be after it was answered."""
        newest = self.plane.observations.status()["newest"]
        for _ in range(times):
            await self.predict([GOOD])
        await until(lambda: self.plane.observations.status()["newest"] == newest + times)

    async def chat(self, text: str) -> Any:
        return await self._post(
            "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": text}]}
        )

    async def _post(self, path: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {self.world.tokens['good']}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.post(self.url + path, json=body) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    def outcomes(self) -> list[dict[str, Any]]:
        return [record.body["outcome"] for record in self.records("outcome")]

    def records(self, kind: str) -> list[Record]:
        return self.plane.ledger.read(limit=10_000, kinds=[kind])

    async def move(self, source: str, reason: str, target: str) -> None:
        wish = {"key": f"{source}-{reason}", "version": 1, "from": source, "to": target, "reason": reason}
        await self.plane.moves.ask("risk", wish, MONITOR)

    @asynccontextmanager
    async def monitor(self) -> AsyncIterator[Monitor]:
        """One life of a monitor. It is not closed at its end: that is how it is when it is killed."""
        every_row = InputSettings(rows_per_principal=50, block_rows=50, reference_rows=10_000)
        settings = MonitorSettings(
            gateway_url=self.url,
            token_file=self.monitor_token,
            state_dir=self.world.folder / "monitor",
            models_root=self.world.folder / "models",
            models=(WatchedModel(name="risk", feature_names=("a", "b"), inputs=every_row),),
            language_models=("tiny",),
        )
        async with aiohttp.ClientSession() as session:
            client = HttpClient(settings, session)
            monitor = monitor_of(settings, client)
            monitor.watching.desk = client
            yield monitor


def write_policy(folder: Path) -> None:
    """``risk`` falls back to ``light``; the monitor may do what a monitor may."""
    models = [{"name": "risk", "task": "classification", "backend": "tfs", "fallback": ["light"], **MODEL}]
    models += [{"name": "light", "task": "classification", "backend": "tfs-light", **MODEL}]
    models += [{"name": "tiny", "task": "chat", "backend": "vllm", **MODEL}]
    (folder / "catalog/models.yaml").write_text(json.dumps({"models": models}))
    rules = [
        {"id": "monitor.reads", "on": ["/api/observations", "/api/models"], "do": "read", "effect": "allow"},
        {"id": "monitor.acts", "on": ["/api/models", "/api/ledger"], "do": "write", "effect": "allow"},
    ]
    (folder / "roles/monitor.yaml").write_text(json.dumps({"role": "monitor", "rules": rules}))
    principals = json.loads((folder / "tenants/test/principals.yaml").read_text())
    principals["principals"].append({"id": "service:monitor", "roles": ["monitor"]})
    (folder / "tenants/test/principals.yaml").write_text(json.dumps(principals))


async def answer(request: web.Request) -> web.Response:
    """A language model that says what it was asked to say."""
    said = (await request.json())["messages"][-1]["content"]
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    return web.json_response(
        {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    )


@asynccontextmanager
async def speaking() -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def set_up_models(folder: Path) -> None:
    publish(folder / "models/risk", 1)
    publish(folder / "other/light", 1)
    rows = np.random.default_rng(1).normal(0, 1, (2_000, 2))
    write_reference(folder / "models/risk/references/1.json", reference_of(("a", "b"), rows, tensor="x"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    set_up_models(tmp_path)
    servers = ModelServer(tmp_path / "models"), ModelServer(tmp_path / "other")
    async with AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        world = World(tmp_path, await stack.enter_async_context(Upstream()))
        world.build()
        write_policy(tmp_path / "policies")
        document, port = world.document(), await stack.enter_async_context(speaking())
        backends = document["backends"]
        backends["tfs"] |= {"target": f"127.0.0.1:{servers[0].port}", "models": {"risk": f"{tmp_path}/models/risk"}}
        light = {"target": f"127.0.0.1:{servers[1].port}", "models": {"light": f"{tmp_path}/other/light"}}
        backends["tfs-light"] = backends["tfs"] | light
        backends["vllm"]["base_url"] = f"http://127.0.0.1:{port}/v1"
        document |= {"guard": {"models": ["risk"]}, "observations": {"capacity": HELD, "signals_per_s": 1_000}}
        plane = await stack.enter_async_context(ControlPlane(Settings.model_validate(document)))
        url = f"http://127.0.0.1:{await stack.enter_async_context(listening(plane.app))}"
        await until(lambda: plane.fleet.known("risk") is not None and plane.fleet.known("light") is not None)
        await until(lambda: plane.fleet.guards.known("risk", 1) is not None)
        token = tmp_path / "monitor.token"
        grant = Grant(subject=MONITOR.subject, tenant="test", kind="service")
        token.write_text(DevelopmentIssuer(tmp_path / "identity").issue(grant))
        yield Running(url, plane, world, token)


async def test_rows_out_of_range_get_the_fallback_while_data_is_at_fault_and_others_do_not(gateway: Running) -> None:
    await gateway.predict([GOOD])
    await gateway.predict([BAD])
    await gateway.move("LEARNING", "reference_learnt", "HEALTHY")
    await gateway.move("HEALTHY", "rows_broken", "DATA_FAULT")
    answered = await gateway.predict([GOOD])
    await gateway.predict([BAD])
    await gateway.predict([GOOD, BAD])
    await gateway.move("DATA_FAULT", "rows_sound", "HEALTHY")
    assert await gateway.predict([GOOD]) == answered
    await gateway.predict([BAD])
    await until(lambda: len(gateway.outcomes()) == 7)
    served = [(outcome["rung"], outcome["served_by"]) for outcome in gateway.outcomes()]
    primary, lighter = ("primary", "risk/1"), ("lighter", "light/1")
    assert served == [primary, primary, primary, lighter, lighter, primary, primary]
    assert gateway.plane.observations.status()["guarded"] == {
        "risk/1": {"calls": 7, "rows": 8, "violating": 4, "fallen": 2}
    }
    assert [record.body["drift"]["to"] for record in gateway.records("drift.transition")] == [
        "HEALTHY",
        "DATA_FAULT",
        "HEALTHY",
    ]


async def test_a_killed_monitor_comes_back_with_its_gap_in_the_ledger_and_counts_nothing_twice(
    gateway: Running,
) -> None:
    await gateway.ask(30)
    async with gateway.monitor() as monitor:
        await monitor.turn()
        await monitor.turn()
        seen_before = monitor.watching.panels["risk"].number
    await gateway.ask(HELD + 20)
    async with gateway.monitor() as monitor:
        for _ in range(3):
            await monitor.turn()
        seen = monitor.watching.panels["risk"].number
        await monitor.close()
    assert (seen_before, seen) == (2 * 30, 2 * (30 + HELD)), "a row and what was seen of its call"
    (gap,) = gateway.records("watch.gap")
    assert {name: gap.body["gap"][name] for name in ("reason", "lost", "by")} == {
        "reason": "overwritten",
        "lost": 20,
        "by": MONITOR.subject,
    }
    status = gateway.plane.observations.status()
    assert (status["dropped"]["overwritten"], status["read"]) == (20, 30 + HELD + 20)


async def test_a_burst_of_refusals_is_seen_and_no_word_of_it_leaves_the_gateway(gateway: Running) -> None:
    for text in ("The total of the invoice is 240 euros.", REFUSAL, "Here is the list that you asked for.", REFUSAL):
        await gateway.chat(text)
    await until(lambda: gateway.plane.observations.status()["held"] == 4)
    page = gateway.plane.observations.page(0, 10)
    values = [each["values"] for each in page["observations"]]
    assert sorted(each["refusal"] for each in values) == [0, 0, 1, 1]
    assert all(each["latency"] > 0 and each["text_chars"] > 30 and each["truncated"] == 0 for each in values)
    assert "invoice" not in json.dumps(page)
    assert b"invoice" not in gateway.plane.observations.packed(0, 10)
    async with gateway.monitor() as monitor:
        await monitor.turn()
        assert monitor.watching.panels["tiny"].number == 8
        await monitor.close()
