"""A lighter model in a model's place: marked as such, never for who asked for a version, never worse than before."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from controlplane.adaptation.adapted import Adapted, Tiers
from controlplane.adaptation.calls import ModelCalls
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import Subject
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable

REQUEST = BackendRequest(call_id="c", target="risk", operation="Predict", timeout_s=10.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.came: list[BackendRequest] = []
        self.open = 0
        self.error: BackendError | None = None
        self.status, self.takes_s = 200, 0.1

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.came.append(request)
        self.clock.now_s += self.takes_s
        if self.error is not None:
            raise self.error
        self.open += 1
        try:
            yield BackendReply(self.status, (), _nothing())
        finally:
            self.open -= 1


async def _nothing() -> AsyncGenerator[bytes]:
    yield b""


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.risk, self.small, self.smallest = (Server(self.clock) for _ in range(3))
        self.tiers = Tiers(lambda model: ["small", "smallest"] if model == "risk" else [])
        self.calls = ModelCalls(AdaptationSettings(min_calls=1), list)
        lighter = {"risk": self.risk, "small": self.small, "smallest": self.smallest}
        self.adapted = Adapted(self.risk, lighter, self.tiers, self.calls, self.clock)

    async def ask(self, **said: object) -> BackendReply:
        async with self.adapted.send(replace(REQUEST, **said)) as reply:
            return reply

    def noted(self, model: str) -> dict[str, float]:
        return dict(self.calls(self.clock.now_s).get(Subject("model", model), {}))


@pytest.fixture
def world() -> World:
    return World()


async def test_model_answers_itself_while_nothing_is_wrong(world: World) -> None:
    reply = await world.ask()
    assert (reply.rung, world.risk.came, world.small.came) == ("primary", [REQUEST], [])


@pytest.mark.parametrize(("steps", "answers"), [(1, "small"), (2, "smallest"), (9, "smallest")])
async def test_lighter_tier_answers_and_says_so(world: World, steps: int, answers: str) -> None:
    world.tiers.set("risk", steps)
    reply = await world.ask()
    assert (reply.rung, reply.served_by) == ("lighter", answers)
    assert world.risk.came == []


async def test_way_back_leads_over_the_same_tiers(world: World) -> None:
    served = []
    for steps in (2, 1, 0):
        world.tiers.set("risk", steps)
        served.append((await world.ask()).served_by)
    assert served == ["smallest", "small", ""]


@pytest.mark.parametrize("said", [{"version": 3}, {"label": "canary"}, {"operation": "GetModelMetadata"}])
async def test_who_asks_for_exactly_this_model_gets_it(world: World, said: dict[str, object]) -> None:
    world.tiers.set("risk", 1)
    assert (await world.ask(**said)).rung == "primary"


async def test_model_without_lighter_ones_answers_itself(world: World) -> None:
    world.tiers.set("tiny", 1)
    await world.ask(target="tiny")
    assert world.risk.came[0].target == "tiny"


@pytest.mark.parametrize("error", [BackendBroke("cut"), BackendRejected("bad_signature"), BackendUnavailable("busy")])
async def test_when_the_lighter_model_cannot_the_model_itself_is_asked_with_the_time_left(
    world: World, error: BackendError
) -> None:
    world.tiers.set("risk", 1)
    world.small.error, world.small.takes_s = error, 4.0
    reply = await world.ask()
    assert reply.rung == "primary"
    assert world.risk.came[0].timeout_s == 6.0


async def test_refusal_of_the_lighter_model_is_no_answer_and_is_closed(world: World) -> None:
    world.tiers.set("risk", 1)
    world.small.status = 400
    assert (await world.ask()).rung == "primary"
    assert (world.small.open, world.risk.open) == (0, 0)


async def test_lighter_model_that_took_all_the_time_leaves_none(world: World) -> None:
    world.tiers.set("risk", 1)
    world.small.error, world.small.takes_s = BackendTimeout("deadline"), 10.0
    with pytest.raises(BackendTimeout):
        await world.ask()
    assert world.risk.came == []


async def test_error_while_reading_closes_what_was_opened(world: World) -> None:
    with pytest.raises(RuntimeError):
        async with world.adapted.send(REQUEST):
            raise RuntimeError
    assert world.risk.open == 0


async def test_latency_is_noted_for_whoever_answered(world: World) -> None:
    world.small.takes_s = 0.05
    await world.ask()
    assert world.noted("risk")["latency_p95_ms"] == pytest.approx(100)
    world.tiers.set("risk", 1)
    await world.ask()
    assert world.noted("risk") == {}
    await world.ask()
    assert world.noted("small")["latency_p95_ms"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (BackendTimeout("deadline"), True),
        (BackendBroke("cut"), True),
        (BackendUnavailable("connect_failed"), True),
        (BackendUnavailable("breaker_open"), False),
        (BackendUnavailable("no_replica"), False),
        (BackendRejected("bad_tensor"), False),
    ],
)
async def test_only_what_the_model_did_wrong_is_its_failure(world: World, error: BackendError, counts: bool) -> None:
    world.risk.error = error
    with pytest.raises(type(error)):
        await world.ask()
    assert world.noted("risk") == ({"calls": 1, "error_ratio": 1.0} if counts else {})


@pytest.mark.parametrize(("status", "noted"), [(200, True), (404, False)])
async def test_answer_about_the_request_says_nothing_of_the_model(world: World, status: int, noted: bool) -> None:
    world.risk.status = status
    await world.ask()
    assert bool(world.noted("risk")) is noted


async def test_status_of_a_server_error_is_a_failure(world: World) -> None:
    world.risk.status = 500
    await world.ask()
    assert world.noted("risk")["error_ratio"] == 1.0
