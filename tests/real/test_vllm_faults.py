"""A real vLLM frozen, asleep, paused, full and killed, beside a replica that is well: traffic moves, and comes back.

The well one is a small fake over a socket; two real ones would share two cores with everything else. The same five in
virtual time: ``tests/unit/inference/routing/test_faults.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.inference.tiny_vllm import TinyVllm, is_installed
from controlplane.resilience.breakers import Breakers, GuardedByVersion
from controlplane.resilience.settings import BreakerSettings
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError
from inference.openai_http.load import VllmLoad
from inference.openai_http.probe import OneToken
from inference.openai_http.settings import VllmSettings
from inference.routing import ReplicaPool
from inference.vllm import VllmBackend
from tests.contracts.fake_openai import running_fake
from tests.contracts.openai_contract import chat

pytestmark = pytest.mark.real("vllm")

STATED_S = 4.6
"""stall_s 2 + a look every 0.5 and its spread + probe_timeout_s 2: what the default settings promise."""
SLACK_S = 2.0  # two cores, shared
HEALS_S = 15 * 1.2 + 2.5  # eject_max_s with its jitter, a look and a probe
ASLEEP_SEEN_S = 0.55 + 1.0  # a look and its spread, and one reading
Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyVllm]:
    if not is_installed():
        pytest.skip("no .venv-vllm: vLLM for the CPU is not installed")
    server = TinyVllm(tmp_path_factory.mktemp("vllm"), flags=("--max-num-queued-reqs=4",))
    try:
        server.start()
        server.await_ready()
        yield server
    finally:
        server.stop()


@dataclass
class Noting:
    """Remembers when it was asked, and what it refused."""

    inner: Backend
    asked_s: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked_s.append(time.monotonic())
        try:
            async with self.inner.send(request) as reply:
                yield reply
        except BackendError as error:
            self.refused.append(error.reason)
            raise


@dataclass(frozen=True)
class Answer:
    took_s: float
    error: BackendError | None = None


@dataclass
class World:
    patient: Noting
    pool: ReplicaPool

    def state(self) -> str:
        return self.pool.snapshot()[0].state.value

    async def ask(self, request: BackendRequest, backend: Backend | None = None) -> Answer:
        began = time.monotonic()
        try:
            async with (backend or self.pool).send(request) as reply, aclosing(reply.chunks) as chunks:
                async for _ in chunks:
                    pass
        except BackendError as error:
            return Answer(time.monotonic() - began, error)
        return Answer(time.monotonic() - began)

    async def traffic(self, span_s: float, every_s: float = 0.2) -> list[Answer]:
        """Callers that do not wait for each other, every second one of them for a stream."""
        tasks: list[asyncio.Task[Answer]] = []
        until = time.monotonic() + span_s
        while time.monotonic() < until:
            tasks.append(asyncio.create_task(self.ask(chat(stream=len(tasks) % 2 == 0))))
            await asyncio.sleep(every_s)
        return await asyncio.gather(*tasks)

    async def heals(self, limit_s: float) -> float:
        """Seconds until the patient is ready again and is really asked again."""
        began = time.monotonic()
        while self.state() != "ready":
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < limit_s, self.pool.snapshot()
        healed_s, asked = time.monotonic() - began, len(self.patient.asked_s)
        answers = await self.traffic(2.0)
        assert not [answer.error for answer in answers if answer.error]
        assert len(self.patient.asked_s) > asked
        return healed_s


@asynccontextmanager
async def pool_of(patient: TinyVllm, key_file: Path, *, alone: bool = False, sees: bool = True) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        settings = VllmSettings(base_url=f"{patient.origin}/v1")
        sick, load = VllmBackend(settings), VllmLoad(settings)
        stack.push_async_callback(sick.aclose)
        stack.push_async_callback(load.aclose)
        noting = Noting(sick)
        replicas: dict[str, Backend] = {"patient": noting}
        probes = {"patient": OneToken(sick, "tiny")}
        if not alone:
            fake = await stack.enter_async_context(running_fake())
            well = VllmBackend(VllmSettings(base_url=f"{fake.origin}/v1", api_key_file=key_file))
            stack.push_async_callback(well.aclose)
            replicas["well"], probes["well"] = well, OneToken(well, "tiny")
        pool = ReplicaPool(replicas, probes=probes, loads={"patient": load} if sees else {})
        watching = asyncio.create_task(pool.watch())
        stack.callback(watching.cancel)
        world = World(noting, pool)
        await asyncio.sleep(1.0)
        await world.traffic(2.0)
        yield world


Act = Callable[[TinyVllm], None]
STANDING_STILL: dict[str, tuple[Act, Act, float]] = {
    "frozen": (TinyVllm.freeze, TinyVllm.thaw, STATED_S),
    "asleep": (lambda one: one.post("/sleep?level=1"), lambda one: one.post("/wake_up"), ASLEEP_SEEN_S),
    "paused": (lambda one: one.post("/pause"), lambda one: one.post("/resume"), STATED_S),
}


@pytest.mark.parametrize("how", STANDING_STILL)
async def test_traffic_leaves_a_vllm_that_stands_still(
    how: str, patient: TinyVllm, key_file: Path, record_property: Note
) -> None:
    stop, go_on, stated_s = STANDING_STILL[how]
    async with pool_of(patient, key_file) as world:
        assert world.state() == "ready"
        try:
            await asyncio.to_thread(stop, patient)
            stopped = time.monotonic()
            answers = await world.traffic(STATED_S + SLACK_S + 4.0)
            assert await asyncio.to_thread(patient.is_up)  # /health goes on saying that all is well
            last_call_s = max([0.0, *(at - stopped for at in world.patient.asked_s)])
        finally:
            await asyncio.to_thread(go_on, patient)
        record_property("last_call_s", round(last_call_s, 2))
        record_property("longest_answer_s", round(max(answer.took_s for answer in answers), 2))
        assert not [answer.error for answer in answers if answer.error]
        assert last_call_s < stated_s + SLACK_S
        assert max(answer.took_s for answer in answers) < STATED_S + SLACK_S + 1.0
        record_property("healed_s", round(await world.heals(HEALS_S), 2))


@pytest.mark.parametrize("sees", [True, False], ids=["with metrics", "without"])
async def test_full_queue_moves_the_call_at_once(
    sees: bool, patient: TinyVllm, key_file: Path, record_property: Note
) -> None:
    async with pool_of(patient, key_file, sees=sees) as world, aclosing(crowd(patient, 40)) as crowding:
        await anext(crowding)
        asked = len(world.patient.asked_s)
        answers = await world.traffic(3.0, every_s=0.1)
        record_property("longest_answer_s", round(max(answer.took_s for answer in answers), 2))
        record_property("asked_there", len(world.patient.asked_s) - asked)
        record_property("refused_there", len(world.patient.refused))
        assert not [answer.error for answer in answers if answer.error]
        assert world.state() == "ready"  # busy is not sick
        assert sees or "busy" in world.patient.refused  # who does not see it coming is told, and goes elsewhere


async def crowd(patient: TinyVllm, size: int) -> AsyncGenerator[None]:
    """More long streams than the server takes, until closed; what is refused is asked again."""
    backend = VllmBackend(VllmSettings(base_url=f"{patient.origin}/v1"))

    async def insist() -> None:
        while True:
            try:
                async with backend.send(chat(stream=True, max_tokens=900)) as reply, aclosing(reply.chunks) as chunks:
                    async for _ in chunks:
                        pass
            except BackendError:
                await asyncio.sleep(0.5)  # refusals in a row would keep its front busy with nothing else

    tasks = [asyncio.create_task(insist()) for _ in range(size)]
    try:
        await asyncio.sleep(1.5)
        while True:
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await backend.aclose()


async def test_breaker_around_a_lone_vllm_heals_with_it(
    patient: TinyVllm, key_file: Path, record_property: Note
) -> None:
    """The breaker of a peer stayed open for ever (BerriAI/litellm#30192)."""
    settings = BreakerSettings(slow_call_s=5.0, min_calls=5, open_s=1.0, open_max_s=4.0)
    breakers = Breakers(lambda _: settings, time.monotonic)
    async with pool_of(patient, key_file, alone=True) as world:
        guarded = GuardedByVersion(world.pool, breakers, time.monotonic)
        impatient = replace(chat(stream=True), timeout_s=2.0)
        patient.freeze()
        try:
            answers = [await world.ask(impatient, guarded) for _ in range(12)]
        finally:
            patient.thaw()
        assert all(answer.error for answer in answers)
        assert max(answer.took_s for answer in answers) < 2.0 + SLACK_S
        assert world.state() != "ready"
        thawed = time.monotonic()
        while (await world.ask(impatient, guarded)).error:
            await asyncio.sleep(0.1)
            assert time.monotonic() - thawed < HEALS_S + 5, (world.pool.snapshot(), breakers.snapshot())
        record_property("healed_s", round(time.monotonic() - thawed, 2))
        while breakers.snapshot()[0].state != "closed":
            await world.ask(impatient, guarded)
            await asyncio.sleep(0.1)
            assert time.monotonic() - thawed < HEALS_S + 10


async def test_killed_vllm_costs_nobody_his_answer_and_comes_back(
    patient: TinyVllm, key_file: Path, record_property: Note
) -> None:
    async with pool_of(patient, key_file) as world:
        traffic = asyncio.create_task(world.traffic(6.0))
        await asyncio.sleep(0.5)
        killed = time.monotonic()
        await asyncio.to_thread(patient.kill)
        answers = await traffic
        record_property("last_call_s", round(world.patient.asked_s[-1] - killed, 2))
        record_property("longest_answer_s", round(max(answer.took_s for answer in answers), 2))
        assert [answer.error.reason for answer in answers if answer.error] in ([], ["cut"])  # a stream that had begun
        assert world.state() != "ready"
        patient.start()
        await asyncio.to_thread(patient.await_ready)
        record_property("healed_s", round(await world.heals(HEALS_S), 2))
