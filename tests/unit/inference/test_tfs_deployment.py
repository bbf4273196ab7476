"""One configuration on several replicas: a change holds everywhere or nowhere, and who was away is told first."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving import wire
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.replica import ReplicaBackend
from inference.tfserving.settings import DeploymentSettings
from inference.tfserving.wire import State


@dataclass
class Server:
    """A model server that remembers what it was told. ``disk`` has the versions that it can load."""

    disk: dict[str, set[int]]
    told: list[dict[str, tuple[set[int], dict[str, int]]]] = field(default_factory=list)
    serving: dict[str, set[int]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    trouble: Exception | None = None
    silent_for: int = 0  # how many answers about versions are late

    async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        return self._reload(body) if operation == wire.RELOAD else self._status(body)

    def _reload(self, body: bytes) -> bytes:
        configs = wire.parse(wire.ReloadConfigRequest, body).config.model_config_list.config
        said = {c.name: (set(c.model_version_policy.specific.versions), dict(c.version_labels)) for c in configs}
        response = wire.ReloadConfigResponse()
        for name, (_, labels) in said.items():
            if not set(labels.values()) <= self.serving.get(name, set()):
                response.status.error_code, response.status.error_message = 9, "not currently available"
                return bytes(response.SerializeToString())
        self.told.append(said)
        self.serving = {name: versions & self.disk.get(name, set()) for name, (versions, _) in said.items()}
        return bytes(response.SerializeToString())

    def _status(self, body: bytes) -> bytes:
        name = wire.parse(wire.GetModelStatusRequest, body).model_spec.name
        if self.silent_for:
            self.silent_for -= 1
            raise BackendTimeout("deadline_exceeded")
        if not self.serving.get(name):
            raise BackendRejected("not_found", f"Could not find any versions of model {name}")
        response = wire.GetModelStatusResponse()
        for number in sorted(self.serving[name], reverse=True):
            error = self.broken.get(number, "")
            state = State.END if error else State.AVAILABLE
            response.model_version_status.add(version=number, state=state).status.error_message = error
        return bytes(response.SerializeToString())

    def restart(self) -> None:
        """It comes back as model servers do: with the newest version of each model, and nothing else."""
        self.trouble = None
        self.serving = {name: {max(versions)} for name, versions in self.disk.items() if versions}


GONE = BackendUnavailable("unavailable", "connection refused")


@dataclass
class World:
    a: Server
    b: Server
    deployment: Deployment
    settings: DeploymentSettings
    slept: list[float]

    def publish(self, version: int) -> None:
        for server in (self.a, self.b):
            server.disk["risk"].add(version)

    def serving(self, version: int) -> list[str]:
        return [name for name, each in self.deployment.replicas.items() if each.serves("risk", version)]


def server() -> Server:
    return Server(disk={"risk": {1}}, serving={"risk": {1}})


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """The versions cannot be seen from here, as behind a bucket. Time passes by sleeping only."""
    now, slept = [0.0], list[float]()

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    settings = DeploymentSettings(file=tmp_path / "d.json", models={"risk": "bucket://risk"})
    a, b = server(), server()
    deployment = Deployment(settings, {"a": a, "b": b}, lambda: now[0], sleep)
    await deployment.start()
    return World(a, b, deployment, settings, slept)


def labels(server: Server) -> dict[str, int]:
    return server.told[-1]["risk"][1]


async def reason(act: Any) -> str:
    with pytest.raises((DeploymentError, BackendError)) as caught:
        await act
    assert isinstance(caught.value, DeploymentError | BackendError)
    return caught.value.reason


async def test_all_replicas_are_told_and_a_move_holds_on_all_of_them(world: World) -> None:
    world.publish(2)
    await world.deployment.load("risk", 2)
    await world.deployment.move_label("risk", "stable", 2)
    assert world.serving(2) == ["a", "b"]
    assert labels(world.a) == labels(world.b) == {"stable": 2}
    assert world.deployment.resolve("risk") == 2


async def test_a_move_that_one_replica_refuses_is_a_move_that_did_not_happen(world: World) -> None:
    world.publish(2)
    world.b.broken[2] = "corrupt"
    assert await reason(world.deployment.load("risk", 2)) == "load_failed"
    assert world.deployment.models["risk"].versions == (1,)
    assert world.a.told[-1]["risk"][0] == world.b.told[-1]["risk"][0] == {1}
    assert (world.serving(1), world.serving(2)) == (["a", "b"], [])


async def test_a_replica_that_is_away_does_not_hold_up_a_move_and_gets_no_call_until_it_was_told(world: World) -> None:
    world.publish(2)
    world.b.trouble = GONE
    await world.deployment.load("risk", 2)
    await world.deployment.move_label("risk", "stable", 2)
    assert (world.serving(1), world.serving(2)) == (["a"], ["a"])
    world.publish(3)
    world.b.restart()
    assert world.serving(2) == ["a"], "it serves 3 now and nothing else"
    await world.deployment.attend("b")
    assert (world.serving(2), world.serving(3)) == (["a", "b"], [])
    assert labels(world.b) == {"stable": 2}


async def test_a_replica_that_was_away_is_told_even_if_it_serves_the_right_versions(world: World) -> None:
    """It missed a label, which those who ask it directly would notice."""
    world.publish(2)
    await world.deployment.load("risk", 2)
    world.b.trouble = GONE
    await world.deployment.move_label("risk", "stable", 2)
    world.b.trouble = None
    assert labels(world.b) == {"stable": 1}
    await world.deployment.attend("b")
    assert labels(world.b) == {"stable": 2}


async def test_a_frozen_replica_counts_as_away(world: World) -> None:
    world.publish(2)
    world.b.trouble = BackendTimeout("deadline_exceeded")
    await world.deployment.load("risk", 2)
    assert world.serving(1) == ["a"]


async def test_when_no_replica_can_be_reached_nothing_moves(world: World) -> None:
    world.publish(2)
    world.a.trouble = world.b.trouble = GONE
    assert await reason(world.deployment.load("risk", 2)) == "unavailable"
    assert world.deployment.models["risk"].versions == (1,)
    world.a.trouble = None
    await world.deployment.load("risk", 2)  # a blip is over as soon as it is over
    assert world.serving(2) == ["a"]


async def test_a_server_that_is_late_with_its_answers_is_waited_for(world: World) -> None:
    world.publish(2)

    async def late(operation: str, body: bytes, timeout_s: float, real: Any = world.a.call) -> bytes:
        if operation == wire.RELOAD:
            world.a.silent_for = 3
        return bytes(await real(operation, body, timeout_s))

    world.a.call = late  # type: ignore[method-assign]  # what a slow load does to the same server
    await world.deployment.load("risk", 2)
    assert world.serving(2) == ["a", "b"]


async def test_a_version_that_the_servers_never_heard_of_is_refused_after_a_moment(world: World) -> None:
    assert await reason(world.deployment.load("risk", 9)) == "no_such_version"
    assert sum(world.slept) <= 2 * world.settings.appear_s + 1, "not half a minute"
    assert world.deployment.models["risk"].versions == (1,)


async def test_a_replica_found_restarted_is_brought_back(world: World) -> None:
    world.publish(2)
    world.b.restart()
    await world.deployment.attend("b")
    assert world.b.serving == {"risk": {1}}
    assert world.serving(1) == ["a", "b"]


async def test_a_model_without_a_version_does_not_keep_the_others_waiting(world: World, tmp_path: Path) -> None:
    two = world.settings.model_copy(update={"models": {"new": str(tmp_path / "new"), "risk": "bucket://risk"}})
    deployment = Deployment(two, {"a": world.a})
    assert await reason(deployment.start()) == "not_available"
    assert (deployment.resolve("risk"), deployment.replicas["a"].serves("risk", 1)) == (1, True)
    world.a.disk["new"] = {4}
    (tmp_path / "new/4").mkdir(parents=True)
    (tmp_path / "new/4/saved_model.pb").touch()
    await deployment.attend("a")
    assert deployment.resolve("new") == 4
    assert deployment.replicas["a"].serves("new", 4)


async def test_a_model_that_cannot_load_does_not_keep_the_others_waiting(world: World) -> None:
    world.settings.file.write_text('{"risk": {"versions": [1], "labels": {"stable": 1}}, "bad": {"versions": [3]}}')
    two = world.settings.model_copy(update={"models": {"bad": "bucket://bad", "risk": "bucket://risk"}})
    world.a.serving = {}
    deployment = Deployment(two, {"a": world.a})
    assert await reason(deployment.start()) == "no_such_version"
    assert deployment.replicas["a"].serves("risk", 1)
    assert labels(world.a) == {"stable": 1}


async def test_a_canary_grows_and_ends_when_it_becomes_stable(world: World) -> None:
    world.publish(2)
    await world.deployment.set_canary("risk", 2, 5)
    told = len(world.a.told)
    await world.deployment.set_canary("risk", 2, 50)
    assert len(world.a.told) == told, "a share is the gateway's own affair"
    served = world.deployment.models["risk"]
    assert (served.labels, served.canary_percent) == ({"stable": 1, "canary": 2}, 50)
    assert await reason(world.deployment.set_canary("risk", 1, 5)) == "already_stable"
    await world.deployment.move_label("risk", "stable", 2)
    assert world.deployment.models["risk"].canary_percent == 0


async def test_one_step_back_each_time_until_nothing_is_left(world: World) -> None:
    for version in (2, 3):
        world.publish(version)
        await world.deployment.load("risk", version)
        await world.deployment.move_label("risk", "stable", version)
    await world.deployment.unload("risk", 2)
    await world.deployment.set_canary("risk", 1, 10)
    assert await world.deployment.roll_back("risk") == 2, "it is loaded again"
    assert (world.deployment.resolve("risk"), world.deployment.models["risk"].canary_percent) == (2, 0)
    assert labels(world.a)["stable"] == labels(world.b)["stable"] == 2
    again = Deployment(world.settings, {"a": world.a})
    await again.start()
    assert await again.roll_back("risk") == 1
    assert await reason(again.roll_back("risk")) == "no_previous"


async def test_what_was_decided_survives_a_restart(world: World) -> None:
    world.publish(2)
    await world.deployment.set_canary("risk", 2, 20)
    await world.deployment.set_shadow("risk", 2, 7)
    assert Deployment(world.settings, {"a": world.a}).models == world.deployment.models


async def test_a_file_of_the_release_before_is_read(world: World) -> None:
    world.settings.file.write_text(json.dumps({"risk": {"versions": [1], "labels": {"stable": 1}}}))
    served = Deployment(world.settings, {"a": world.a}).models["risk"]
    assert (served.canary_percent, served.shadow, served.previous) == (0, None, ())


async def test_a_version_in_use_is_not_unloaded_under_a_call(world: World) -> None:
    world.publish(2)
    await world.deployment.load("risk", 2)
    with world.deployment.using("risk", 2):
        async with unloading(world, 2):
            assert await reason(_resolved(world, 2)) == "not_found", "no new call begins"
            assert 2 in world.a.serving["risk"]
            world.deployment._running.clear()
    assert world.a.serving == world.b.serving == {"risk": {1}}


@asynccontextmanager
async def unloading(world: World, version: int) -> AsyncGenerator[TaskGroup]:
    """Begun, and waiting for the calls that are under way."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.deployment.unload, "risk", version)
        with anyio.fail_after(60):
            while not world.slept:
                await anyio.lowlevel.checkpoint()
        yield tasks


async def _resolved(world: World, version: int) -> int:
    return world.deployment.resolve("risk", version)


async def test_a_canary_that_is_over_is_unloaded_with_its_label(world: World) -> None:
    world.publish(2)
    await world.deployment.set_canary("risk", 2, 10)
    assert await reason(world.deployment.unload("risk", 2)) == "labelled"
    await world.deployment.set_canary("risk", 2, 0)
    await world.deployment.unload("risk", 2)
    served = world.deployment.served("risk")
    assert served is not None
    assert (served.versions, dict(served.labels)) == ((1,), {"stable": 1})


async def test_what_is_still_used_is_not_unloaded(world: World) -> None:
    world.publish(2)
    await world.deployment.set_shadow("risk", 2, 10)
    assert await reason(world.deployment.unload("risk", 1)) == "labelled"
    assert await reason(world.deployment.unload("risk", 2)) == "labelled"
    await world.deployment.set_shadow("risk", 2, 0)
    await world.deployment.unload("risk", 2)
    assert world.serving(2) == []


async def test_a_version_on_trial_gets_copies_and_is_nobody_s_answer(world: World) -> None:
    world.publish(2)
    await world.deployment.set_shadow("risk", 2, 10, on_trial=True)
    assert world.serving(2) == ["a", "b"]
    assert await reason(_resolved(world, 2)) == "not_found"
    assert Deployment(world.settings, {"a": world.a}).models == world.deployment.models, "nor after a restart"
    await world.deployment.set_canary("risk", 2, 5)
    assert world.deployment.models["risk"].shadow is None
    assert world.deployment.resolve("risk", 2) == 2


async def tried(world: World) -> None:
    world.publish(2)
    await world.deployment.set_shadow("risk", 2, 7)
    await world.deployment.set_canary("risk", 2, 20)


async def test_a_version_that_is_withdrawn_has_no_share_no_label_and_is_unloaded(world: World) -> None:
    await tried(world)
    for _ in range(2):  # twice is once
        await world.deployment.withdraw("risk", 2)
        served = world.deployment.models["risk"]
        assert (served.versions, served.labels, served.canary_percent, served.shadow) == ((1,), {"stable": 1}, 0, None)
        assert world.a.serving == world.b.serving == {"risk": {1}}
    assert labels(world.a) == {"stable": 1}


async def test_a_version_that_somebody_else_named_stays_loaded_when_it_is_withdrawn(world: World) -> None:
    await tried(world)
    await world.deployment.move_label("risk", "audit", 2)
    await world.deployment.withdraw("risk", 2)
    assert (world.deployment.resolve("risk", label="audit"), world.serving(2)) == (2, ["a", "b"])
    assert world.deployment.models["risk"].canary_percent == 0


async def test_what_cannot_be_unloaded_is_given_to_nobody_and_unloaded_when_asked_again(world: World) -> None:
    await tried(world)
    await world.deployment.withdraw("risk", 3)
    assert world.deployment.models["risk"].canary_percent == 20, "that is another's share"
    world.a.trouble = world.b.trouble = GONE
    assert await reason(world.deployment.withdraw("risk", 2)) == "unavailable"
    assert world.deployment.models["risk"].canary_percent == 0
    world.a.trouble = world.b.trouble = None
    for name in ("a", "b"):
        await world.deployment.attend(name)
    await world.deployment.withdraw("risk", 2)
    assert world.a.serving == world.b.serving == {"risk": {1}}


async def test_whoever_leaves_while_a_version_drains_leaves_it_served_and_known(world: World) -> None:
    world.publish(2)
    await world.deployment.load("risk", 2)
    with world.deployment.using("risk", 2):
        async with unloading(world, 2) as tasks:
            tasks.cancel_scope.cancel()
    assert (await _resolved(world, 2), world.a.serving["risk"]) == (2, {1, 2})
    await world.deployment.unload("risk", 2)
    assert world.a.serving == {"risk": {1}}


@dataclass
class Calls:
    trouble: BackendError | None = None
    asked: int = 0

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble

        async def chunks() -> AsyncGenerator[bytes]:
            yield b"ok"

        yield BackendReply(200, (), chunks())


def request(version: int | None = 1) -> BackendRequest:
    return BackendRequest(call_id="c", target="risk", operation="Predict", version=version)


async def answered(backend: ReplicaBackend, version: int | None = 1) -> bytes:
    async with backend.send(request(version)) as reply, aclosing(reply.chunks) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_replica_is_not_asked_for_what_it_does_not_serve(world: World) -> None:
    calls = Calls()
    backend = ReplicaBackend(calls, world.deployment.replicas["a"])
    assert await answered(backend) == await answered(backend, None) == b"ok"
    assert await reason(answered(backend, 2)) == "not_deployed"
    assert calls.asked == 2


@pytest.mark.parametrize(
    ("trouble", "told", "is_lost"),
    [
        (GONE, "unavailable", True),
        (BackendRejected("not_found", "Servable not found for request: Specific(risk, 1)"), "unavailable", True),
        (BackendRejected("not_found", "something else"), "not_found", False),
        (BackendUnavailable("resource_exhausted"), "resource_exhausted", False),
        (BackendTimeout("deadline_exceeded"), "deadline_exceeded", False),
    ],
)
async def test_a_replica_that_turns_out_to_be_another_is_lost(
    world: World, trouble: BackendError, told: str, is_lost: bool
) -> None:
    replica = world.deployment.replicas["a"]
    assert await reason(answered(ReplicaBackend(Calls(trouble), replica))) == told
    assert replica.serves("risk", 1) is not is_lost
    if is_lost:
        await replica.wait_lost()
        await world.deployment.attend("a")
    assert world.serving(1) == ["a", "b"]
