"""Rules, gates and layers as they are wired: what an agent meets on a bad day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from controlplane.adaptation import (
    GATEWAY,
    Adaptation,
    AdaptationSettings,
    Adapted,
    ModelCalls,
    Sources,
    Subject,
    Tiers,
    lighter_tier,
    throttle,
)
from controlplane.admission import AdmissionSettings, Gates, QueuedBackend
from inference.backend import BackendReply, BackendRequest
from tests.unit.adaptation.rules import shipped


class World:
    """One model of which each call takes ``takes_s`` by the test's clock, and a lighter one beside it."""

    def __init__(self) -> None:
        self.now_s, self.takes_s, self.running = 0.0, 0.1, 0
        self.until = asyncio.Event()
        self.signals: dict[Subject, dict[str, float]] = {}
        self.moved: list[tuple[str, int]] = []
        settings, models = AdaptationSettings(), ["risk", "small"]
        self.calls = ModelCalls(settings, lambda: models)
        self.tiers = Tiers(lambda model: ["small"] if model == "risk" else [])
        self.gates = Gates(lambda _: AdmissionSettings(limit_calls=40), self.now)
        adapted = Adapted(self, {"risk": self, "small": self}, self.tiers, self.calls, self.now)
        self.backend = QueuedBackend(adapted, self.gates.of("risk"), self.now)
        self.loop = Adaptation(
            settings,
            shipped,
            Sources([self.calls, lambda _: self.signals]),
            {
                "throttle": throttle(self.gates.throttle, self.gates.throttle_all),
                "lighter_tier": lighter_tier(self.tiers),
            },
            self.record,
            now=self.now,
        )

    def now(self) -> float:
        return self.now_s

    async def record(self, kind: str, body: Mapping[str, Any]) -> None:
        self.moved.append((body["adaptation"]["rule"], body["adaptation"]["to"]))

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.running += 1
        self.now_s += self.takes_s if request.target == "risk" else 0.01
        try:
            yield BackendReply(200, (), _nothing(), served_by=request.target)
        finally:
            self.running -= 1

    async def ask(self, priority: int = 5) -> BackendReply:
        request = BackendRequest(call_id="c", target="risk", operation="Predict", agent="a", priority=priority)
        async with self.backend.send(request) as reply:
            await self.until.wait()
            return reply

    async def windows(self, count: int, calls: int = 30) -> None:
        """Windows with so many quick calls one after the other."""
        self.until.set()
        for _ in range(count):
            for _ in range(calls):
                await self.ask()
            self.now_s += 10.0
            await self.loop.tick()
        self.until = asyncio.Event()


async def _nothing() -> AsyncGenerator[bytes]:
    yield b""


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_busy_machine_lets_half_through_and_the_urgent_pass() -> None:
    world = World()
    callers = [asyncio.create_task(world.ask()) for _ in range(20)]
    await settle()
    world.signals = {GATEWAY: {"cpu_ratio": 0.95}}
    for _ in range(2):
        world.now_s += 10.0
        await world.loop.tick()
    callers += [asyncio.create_task(world.ask(priority)) for priority in (5, 0, 9, 1)]
    await settle()
    assert world.running == 22, "the two urgent ones are in"
    world.until.set()
    await asyncio.gather(*callers)
    assert world.gates.of("risk").room == 10
    world.signals = {GATEWAY: {"cpu_ratio": 0.2}}
    await world.windows(10, calls=0)
    assert (world.gates.of("risk").room, world.moved) == (40, [("cpu.throttle", 1), ("cpu.throttle", 0)])


async def test_full_and_slow_model_gives_way_to_its_lighter_one_and_comes_back() -> None:
    world = World()
    world.takes_s, world.signals = 0.3, {Subject("model", "risk"): {"gpu_or_kv_ratio": 0.95}}
    await world.windows(2)
    world.until.set()
    reply = await world.ask()
    assert (reply.rung, reply.served_by) == ("lighter", "small")
    world.takes_s, world.signals = 0.05, {Subject("model", "risk"): {"gpu_or_kv_ratio": 0.1}}
    await world.windows(4)
    world.until.set()
    assert (await world.ask()).rung == "lighter", "it is held for a minute"
    await world.windows(4)
    world.until.set()
    assert (await world.ask()).rung == "primary"
    assert world.moved == [("full.lighter", 1), ("full.lighter", 0)]


async def test_wait_in_our_own_line_does_not_keep_a_throttle_alive() -> None:
    """Latency is the model's own: while calls wait for minutes the model that answers in time counts as well."""
    world = World()
    world.takes_s = 0.9
    await world.windows(2)
    assert world.moved == [("slow.throttle", 1)]
    world.takes_s = 0.1
    callers = [asyncio.create_task(world.ask()) for _ in range(5)]
    await settle()
    world.now_s += 5.0
    world.until.set()
    await asyncio.gather(*callers)
    await world.windows(12)
    assert world.moved == [("slow.throttle", 1), ("slow.throttle", 0)]
