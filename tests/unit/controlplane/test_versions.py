"""Who gets which version: sticky canaries, checked inputs, copies that nobody notices. Decided without a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from msgspec import structs

from controlplane.drift.observed import Copied
from controlplane.shadow import Shadows, ShadowSettings, Tally, agreement
from controlplane.versions import AtVersion, share, tries_canary
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving import tensors, wire
from inference.tfserving.deployment import Deployment
from inference.tfserving.predict import encode_predict
from inference.tfserving.served import Served, Shadow
from inference.tfserving.settings import DeploymentSettings
from inference.tfserving.signatures import Signature, TensorSpec

X = np.array([[1, 2], [3, 4]], np.float32)
KNOWN = {"serving_default": Signature("p", {"x": TensorSpec(1, (-1, 2))}, {"y": TensorSpec(1, None)})}


def answer(**outputs: Any) -> bytes:
    response = wire.PredictResponse()
    for name, value in outputs.items():
        tensors.write(np.asarray(value), response.outputs[name])
    return bytes(response.SerializeToString())


@dataclass
class Versions:
    """Answers as each version would; ``refuse`` has the versions that raise, ``gate`` holds copies back."""

    answers: dict[int, bytes] = field(default_factory=lambda: dict.fromkeys((1, 2, 3), answer(y=[[0.2, 0.8]])))
    refuse: dict[int, BackendError] = field(default_factory=dict)
    asked: list[BackendRequest] = field(default_factory=list)
    gate: anyio.Event | None = None
    breaks_off: bool = False

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        assert request.version is not None or request.operation == "GetModelStatus"
        self.asked.append(request)
        if request.version in self.refuse:
            raise self.refuse[request.version]
        if self.gate is not None and request.priority == 9:
            await self.gate.wait()

        async def chunks() -> AsyncGenerator[bytes]:
            yield self.answers[request.version or 1]
            if self.breaks_off:
                raise BackendUnavailable("cut")

        async with aclosing(chunks()) as given:
            yield BackendReply(200, (), given, served_by=f"risk/{request.version}")


@dataclass
class Known:
    signatures: Mapping[str, Signature] | None = None

    def known(self, model: str, version: int | None = None, label: str | None = None) -> Any:
        return self.signatures


@dataclass
class World:
    backend: Versions
    deployment: Deployment
    signatures: Known
    shadows: Shadows
    records: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def at_version(self) -> AtVersion:
        return AtVersion(self.backend, self.deployment, self.signatures, self.shadows)

    def serve(self, **changes: Any) -> None:
        self.deployment._models = {"risk": replace(self.deployment.models["risk"], **changes)}

    async def ask(self, **fields: Any) -> BackendReply:
        body = encode_predict("risk", {"x": X})
        known = {"call_id": "c", "target": "risk", "operation": "Predict", "body": body, "agent": "agent:a"}
        async with self.at_version.send(BackendRequest(**(known | fields))) as reply, aclosing(reply.chunks) as chunks:
            assert b"".join([chunk async for chunk in chunks])
            return reply

    async def append(self, kind: str, body: Mapping[str, Any]) -> None:
        self.records.append((kind, body))

    def observe(self, model: str, outcome: str, rows: int, agreed: int) -> None:
        self.counted[outcome] += 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    deployment = Deployment(DeploymentSettings(file=tmp_path / "d.json", models={"risk": "b"}), {})
    deployment._models = {"risk": Served("b", (1, 2, 3), {"stable": 1, "canary": 2})}
    world = World(Versions(), deployment, Known(KNOWN), Shadows(ShadowSettings(workers=1, busy_calls=3)))
    world.shadows.observe = world.observe
    return world


AGENTS = [f"agent:{number}" for number in range(400)]


async def canaries(world: World, percent: int) -> set[str]:
    world.serve(canary_percent=percent)
    return {agent for agent in AGENTS if (await world.ask(agent=agent)).served_by == "risk/2"}


async def test_the_same_agents_stay_canaries_while_the_share_grows(world: World) -> None:
    nobody, few, again, more, all_of_them = [await canaries(world, percent) for percent in (0, 5, 5, 40, 100)]
    assert nobody == set()
    assert few == again < more < all_of_them == set(AGENTS)
    assert 8 <= len(few) <= 36
    assert 120 <= len(more) <= 200


def test_a_place_never_changes_between_releases_and_processes() -> None:
    """Written down: another hash would move every agent at once."""
    assert [share(key) for key in ("risk\0acme\0agent:1", "risk\0acme\0agent:2", "")] == PLACES


PLACES = [5278, 9415, 1652]


def test_models_and_tenants_have_canaries_of_their_own() -> None:
    def chosen(model: str, tenant: str) -> set[str]:
        request = BackendRequest(call_id="c", target=model, operation="Predict", tenant=tenant)
        return {agent for agent in AGENTS if tries_canary(structs.replace(request, agent=agent), 30)}

    assert len({frozenset(chosen(*one)) for one in (("risk", "acme"), ("fraud", "acme"), ("risk", "globex"))}) == 3


async def test_who_says_what_they_want_gets_it_and_who_is_unknown_gets_what_is_stable(world: World) -> None:
    world.serve(canary_percent=100)
    assert (await world.ask(version=1)).served_by == "risk/1"
    assert (await world.ask(label="stable")).served_by == "risk/1"
    assert (await world.ask(label="canary")).served_by == "risk/2"
    assert (await world.ask(version=3)).served_by == "risk/3"
    assert (await world.ask(version=0)).served_by == "risk/2"
    assert (await world.ask(agent="")).served_by == "risk/1"
    assert {request.label for request in world.backend.asked} == {None}


@pytest.mark.parametrize("reason", ["breaker_open", "breaker_held", "not_deployed"])
async def test_a_canary_that_is_refused_before_anything_was_done_costs_its_agents_nothing(
    world: World, reason: str
) -> None:
    world.serve(canary_percent=100)
    world.backend.refuse[2] = BackendUnavailable(reason)
    assert (await world.ask()).served_by == "risk/1"


async def test_a_canary_that_fails_is_not_asked_twice(world: World) -> None:
    world.serve(canary_percent=100)
    world.backend.refuse[2] = BackendUnavailable("unavailable")
    with pytest.raises(BackendUnavailable):
        await world.ask()
    assert len(world.backend.asked) == 1
    world.backend.refuse[2] = BackendUnavailable("breaker_held")
    with pytest.raises(BackendUnavailable):
        await world.ask(label="canary")
    assert {request.version for request in world.backend.asked} == {2}, "who asks for it shall hear that it is held"


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (encode_predict("risk", {"x": X.astype("f8")}), "invalid_argument", "to be float but double"),
        (encode_predict("risk", {"x": X[:, :1]}), "invalid_argument", "has shape [2, 1]"),
        (encode_predict("risk", {"y": X}), "invalid_argument", "Missing but required: {x}."),
        (encode_predict("risk", {"x": X}, signature="no"), "failed_precondition", '"no" not found'),
        (b"\x12\x7f", "invalid_argument", "corrupt"),
    ],
)
async def test_inputs_that_do_not_fit_never_reach_a_server(world: World, body: bytes, reason: str, words: str) -> None:
    with pytest.raises(BackendRejected) as caught:
        await world.ask(body=body)
    assert caught.value.reason == reason
    assert words in caught.value.detail
    assert world.backend.asked == []


async def test_what_is_not_known_yet_is_left_to_the_server(world: World) -> None:
    world.signatures.signatures = None
    assert (await world.ask(body=encode_predict("risk", {"y": X}))).served_by == "risk/1"


async def test_a_question_about_all_versions_names_none(world: World) -> None:
    await world.ask(operation="GetModelStatus")
    assert world.backend.asked[0].version is None


async def test_an_unserved_model_is_not_deployed(world: World) -> None:
    with pytest.raises(BackendUnavailable, match="told yet to serve nobody"):
        await world.ask(target="nobody")


async def test_calls_under_way_are_counted_and_given_back(world: World) -> None:
    body = encode_predict("risk", {"x": X})
    request = BackendRequest(call_id="c", target="risk", operation="Predict", body=body)
    async with world.at_version.send(request):
        assert (world.deployment.running("risk", 1), world.deployment.running("risk")) == (1, 1)
    world.backend.refuse[1] = BackendUnavailable("unavailable")
    with pytest.raises(BackendUnavailable):
        await world.ask()
    assert world.deployment.running("risk") == 0


def shadowed(world: World, percent: int = 100) -> None:
    world.serve(shadow=Shadow(3, percent))


@asynccontextmanager
async def running(world: World) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.shadows.run, world.append)
        await anyio.lowlevel.checkpoint()
        yield
        await until_idle(world)
        tasks.cancel_scope.cancel()


async def until_idle(world: World) -> None:
    with anyio.fail_after(60):
        while world.shadows._under_way:
            await anyio.lowlevel.checkpoint()


async def test_a_copy_goes_to_the_shadow_and_its_answer_nowhere(world: World) -> None:
    shadowed(world)
    world.backend.answers[3] = answer(y=[[0.9, 0.1]])
    async with running(world):
        reply = await world.ask(tenant="acme", scope="acme:r1")
    primary, copy = world.backend.asked
    assert reply.served_by == "risk/1"
    assert (primary.version, copy.version, copy.body) == (1, 3, primary.body)
    assert (copy.priority, copy.scope) == (9, ""), "the first that may be shed, and never remembered"
    ((kind, body),) = world.records
    facts = body["shadow"]
    assert kind == "shadow.summary"
    assert (facts["model"], facts["version"], facts["shadow_version"]) == ("risk", 1, 3)
    assert (facts["answered"], facts["rows"], facts["agreed"], facts["difference_micro"]) == (1, 1, 0, 700_000)


async def test_a_share_of_the_calls_is_copied(world: World) -> None:
    shadowed(world, percent=25)
    async with running(world):
        for number in range(200):
            await world.ask(call_id=f"call-{number}")
            await anyio.lowlevel.checkpoint()
    copies = [request for request in world.backend.asked if request.version == 3]
    assert 25 <= len(copies) + world.counted["dropped"] <= 75


async def test_copies_are_dropped_when_too_many_are_under_way_or_the_model_is_busy(world: World) -> None:
    shadowed(world)
    world.backend.gate = anyio.Event()
    async with running(world):
        await world.ask()
        await anyio.lowlevel.checkpoint()
        await world.ask()
        assert world.counted == {"dropped": 1}
        world.backend.gate.set()
        await until_idle(world)
        for _ in range(3):
            world.deployment._running["risk", 1] += 1
        await world.ask()
    assert world.counted == {"dropped": 2, "answered": 1}


async def test_nothing_is_copied_while_nobody_runs_the_copies(world: World) -> None:
    shadowed(world)
    await world.ask()
    assert world.counted == {"dropped": 1}


@pytest.mark.parametrize("trouble", [BackendUnavailable("unavailable"), RuntimeError("nobody thought of this")])
async def test_a_copy_that_fails_is_counted_and_nothing_else(world: World, trouble: Any) -> None:
    shadowed(world)
    world.backend.refuse[3] = trouble
    async with running(world):
        assert (await world.ask()).served_by == "risk/1"
    assert world.counted == {"failed": 1}


async def test_an_answer_that_breaks_off_is_not_copied(world: World) -> None:
    shadowed(world)
    world.backend.breaks_off = True
    async with running(world):
        with pytest.raises(BackendUnavailable, match="cut"):
            await world.ask()
    assert len(world.backend.asked) == 1


def on_trial(world: World) -> list[Copied]:
    """What is shown of the copies for version 3, which answers nobody."""
    shown: list[Copied] = []
    world.serve(shadow=Shadow(3, 100, on_trial=True))
    world.shadows.keep = shown.append
    return shown


async def test_what_a_version_on_trial_answers_is_shown_with_the_call_it_is_a_copy_of(world: World) -> None:
    shown, times = on_trial(world), iter((10.0, 10.25))
    world.shadows.monotonic, world.shadows.wall_clock = lambda: next(times), lambda: 7.0
    world.backend.answers[3] = answer(y=[[0.9, 0.1]])
    async with running(world):
        assert (await world.ask(call_id="the call")).served_by == "risk/1"
    body = encode_predict("risk", {"x": X})
    assert shown == [Copied("the call", 7_000, "risk", 3, 250_000, "", body, answer(y=[[0.9, 0.1]]))]


async def test_while_the_champion_is_held_a_version_on_trial_is_asked_all_the_same(world: World) -> None:
    shown = on_trial(world)
    world.backend.refuse[1] = BackendUnavailable("breaker_held")
    async with running(world):
        with pytest.raises(BackendUnavailable, match="breaker_held"):
            await world.ask()
    assert [(one.version, one.failed) for one in shown] == [(3, "")]
    assert world.records[0][1]["shadow"]["rows"] == 0, "there is nothing to compare it with"


@pytest.mark.parametrize(("reason", "trial"), [("unavailable", True), ("breaker_held", False)])
async def test_no_other_call_is_copied_without_an_answer(world: World, reason: str, trial: bool) -> None:
    world.serve(shadow=Shadow(3, 100, on_trial=trial))
    world.backend.refuse[1] = BackendUnavailable(reason)
    async with running(world):
        with pytest.raises(BackendUnavailable):
            await world.ask()
    assert [request.version for request in world.backend.asked] == [1]


async def test_a_copy_that_fails_is_shown_with_its_reason_and_one_that_reached_no_server_is_not(world: World) -> None:
    shown = on_trial(world)
    async with running(world):
        for error in (
            BackendTimeout("timeout"),
            BackendUnavailable("rows_out_of_range"),
            BackendUnavailable("refused"),
        ):
            world.backend.refuse[3] = error
            await world.ask()
            with anyio.fail_after(60):
                while world.shadows._under_way:
                    await anyio.lowlevel.checkpoint()
    assert [(one.failed, one.reply) for one in shown] == [("timeout", b"")]


async def test_an_operator_s_shadow_is_shown_to_nobody(world: World) -> None:
    shown = on_trial(world)
    shadowed(world)
    async with running(world):
        await world.ask()
    assert (shown, world.counted) == ([], {"answered": 1})


async def test_other_operations_and_the_shadow_s_own_calls_are_not_copied(world: World) -> None:
    shadowed(world)
    world.signatures.signatures = None
    async with running(world):
        await world.ask(version=3)
        await world.ask(operation="Classify")
    assert len(world.backend.asked) == 2


async def test_a_summary_that_cannot_be_recorded_is_in_the_next(world: World) -> None:
    shadowed(world)
    async with running(world):
        await world.ask()

    async def full(kind: str, body: Mapping[str, Any]) -> None:
        raise OSError("disk full")

    world.records.clear()
    world.shadows.tallies["risk", 1, 3] = Tally(5, answered=2)
    await world.shadows.record(full)
    world.shadows.tallies["risk", 1, 3].answered += 1
    await world.shadows.record(world.append)
    facts = world.records[0][1]["shadow"]
    assert (facts["answered"], facts["from_ms"]) == (3, 5)
    assert world.shadows.tallies == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "rows", "agreed"),
    [
        (answer(y=[[0.2, 0.8], [0.6, 0.4]]), answer(y=[[0.4, 0.6], [0.4, 0.6]]), 2, 1),
        (answer(y=[1.0, 2.0]), answer(y=[1.0001, 2.5]), 2, 1),
        (answer(y=[1, 2, 3]), answer(y=[1, 2, 4]), 3, 2),
        (answer(y=[b"a", b"b"]), answer(y=[b"a", b"c"]), 2, 1),
        (answer(y=[[1.0]], z=[[1]]), answer(y=[[1.0]], z=[[2]]), 1, 0),
        (answer(y=[[1.0]]), answer(z=[[1.0]]), 1, 0),
        (answer(y=[[1.0]]), answer(y=[[1.0, 2.0]]), 1, 0),
        (answer(y=[[1.0]]), b"\xff", 1, 0),
        (answer(y=3.0), answer(y=3.0), 1, 1),
        (answer(y=[float("nan")]), answer(y=[float("nan")]), 1, 1),
        (answer(y=np.zeros((0, 2), "f4")), answer(y=np.zeros((0, 2), "f4")), 0, 0),
    ],
)
def test_rows_agree_when_they_say_the_same(ours: bytes, theirs: bytes, rows: int, agreed: int) -> None:
    found = agreement(ours, theirs)
    assert (found.rows, found.agreed) == (rows, agreed)
