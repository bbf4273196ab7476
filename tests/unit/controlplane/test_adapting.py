"""The layers and the loop on a real ledger and the shipped policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from audit import AuditSettings, SqliteLedger
from controlplane.adaptation import GATEWAY, KIND, AdaptationSettings, Subject
from controlplane.adapting import Adapting
from controlplane.admission import AdmissionSettings
from controlplane.clock import Clock
from controlplane.policy import BundlePolicy, PolicySettings
from controlplane.resilience.breaker import Verdict
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import BreakerSettings
from controlplane.telemetry.metrics import Metrics
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendUnavailable

POLICIES = Path(__file__).parents[3] / "policies"
REQUEST = BackendRequest(call_id="c", target="risk", operation="Predict", tenant="acme", agent="a")


class Server:
    def __init__(self) -> None:
        self.until = asyncio.Event()
        self.until.set()

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        await self.until.wait()
        yield BackendReply(200, (), _nothing(), served_by=request.target)


async def _nothing() -> AsyncGenerator[bytes]:
    yield b""


@dataclass(frozen=True)
class Review:
    model: str = "risk"
    reference_ppm: int = 900_000
    accuracy_ppm: int = 720_000
    choices: int = 3


def idle(_now_s: float) -> Mapping[Subject, Mapping[str, float]]:
    return {GATEWAY: {"cpu_ratio": 0.1}}


class World:
    """One gateway's life on a ledger that outlives it."""

    def __init__(self, ledger: SqliteLedger, limit_calls: int = 1) -> None:
        self.now_s, self.server, self.ledger = 100.0, Server(), ledger
        clock = Clock(monotonic=lambda: self.now_s)
        policy = BundlePolicy(PolicySettings(path=POLICIES))
        policy.load()
        assert policy.status().error == ""
        self.breakers = Breakers(lambda _: BreakerSettings(), clock.monotonic)
        self.metrics = Metrics()
        self.reviews: list[Review] = []
        admission = AdmissionSettings(limit_calls=limit_calls, queue_calls=0)
        self.adapting = Adapting(admission, AdaptationSettings(), policy, clock=clock, metrics=self.metrics)
        self.adapting.begin(ledger, self.breakers, drift_states=dict, reviews=lambda: self.reviews, cpu=idle)
        adapted = self.adapting.adapted({"risk": self.server, "risk-baseline": self.server})
        self.backend: Backend = self.adapting.queued("risk", adapted["risk"])

    async def tick(self, windows: int = 1) -> None:
        for _ in range(windows):
            self.now_s += 10.0
            await self.adapting.loop.tick()

    def recorded(self) -> list[tuple[str, str, int]]:
        said = [record.body["adaptation"] for record in self.ledger.read(kinds=[KIND])]
        return [(one["rule"], one["name"], one["to"]) for one in said]

    async def exposed(self, name: str) -> str:
        page, _ = await self.metrics.exposition()
        return "\n".join(line for line in page.decode().splitlines() if line.startswith(f"controlplane_{name}"))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncGenerator[SqliteLedger]:
    ledger = SqliteLedger(
        AuditSettings(
            writer="thread",
            path=tmp_path / "ledger.sqlite",
            signing_key=tmp_path / "signing.key",
            commitment_key=tmp_path / "commitment.key",
        )
    )
    await ledger.open()
    yield ledger
    await ledger.close()


async def test_open_breaker_is_on_record_until_probes_have_closed_it(ledger: SqliteLedger) -> None:
    world = World(ledger)
    world.breakers.hold("risk/1", "operator")
    await world.tick()
    assert world.recorded() == [("breaker.notify", "risk", 1)]
    assert 'rule="breaker.notify",target="model:risk"} 1.0' in await world.exposed("adaptation_level")
    world.breakers.release("risk/1", "operator")
    await world.tick(5)
    assert len(world.recorded()) == 1, "half open is not closed"
    breaker = world.breakers.of("risk", 1)
    for _ in range(BreakerSettings().probes):
        if permit := breaker.admit(world.now_s):
            breaker.report(permit, Verdict.SUCCEEDED, 0.0, world.now_s)
    await world.tick()
    assert world.recorded()[-1] == ("breaker.notify", "risk", 0)


async def test_review_of_selection_is_a_persons_until_it_is_cleared(ledger: SqliteLedger) -> None:
    world = World(ledger)
    world.reviews = [Review()]
    await world.tick()
    assert [status.action for status in world.adapting.loop.status()] == ["human_review"]
    world.reviews = []
    await world.tick(5)
    assert world.recorded() == [("accuracy.review", "risk", 1), ("accuracy.review", "risk", 0)]


async def test_slow_predictions_throttle_their_own_gate(ledger: SqliteLedger) -> None:
    world = World(ledger, limit_calls=8)
    for _ in range(2):
        for _ in range(20):
            world.adapting.calls.answered("risk", 0.9, world.now_s)
        await world.tick()
    assert world.adapting.gates.of("risk").throttle_steps == 1
    assert world.adapting.gates.of("tiny").throttle_steps == 0


async def test_next_life_of_the_gateway_stands_where_the_last_one_stood(ledger: SqliteLedger) -> None:
    first = World(ledger)
    for _ in range(2):
        for _ in range(20):
            first.adapting.calls.answered("risk", 0.9, first.now_s)
        await first.tick()
    second = World(ledger)
    await second.tick()
    assert second.adapting.gates.of("risk").throttle_steps == 1


async def test_lighter_tiers_are_the_models_of_the_catalogues_fallback(ledger: SqliteLedger) -> None:
    world = World(ledger)
    await world.adapting.loop._actions["lighter_tier"](Subject("model", "risk"), 1)
    async with world.backend.send(REQUEST) as reply:
        assert (reply.rung, reply.served_by) == ("lighter", "risk-baseline")


async def test_shed_and_running_calls_are_counted(ledger: SqliteLedger) -> None:
    world = World(ledger)
    world.server.until.clear()
    first = asyncio.create_task(drained(world.backend))
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable, match="queue_full"):
        await drained(world.backend)
    world.adapting.report()
    assert 'overload_running_calls{gate="risk"} 1.0' in await world.exposed("overload_running")
    assert 'cause="queue_full",gate="risk"} 1.0' in await world.exposed("overload_shed")
    world.server.until.set()
    await first


async def drained(backend: Backend) -> None:
    async with backend.send(replace(REQUEST)):
        pass
