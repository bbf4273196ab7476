"""Models find their servers, versions and fallbacks, also when servers come late, go, or policy changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import numpy as np
import pytest

from controlplane.policy import Catalogue
from controlplane.resilience.ladder import FallbackLadder
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError
from inference.tfserving.deployment import Deployment
from inference.tfserving.predict import encode_predict
from inference.tfserving.signatures import DeployedSignatures
from tests.unit.controlplane.rig import ModelServer, Rig, entry, publish, until

ROW = np.array([[0.5, -0.5]], np.float32)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.fleet.DEPLOYMENT_CHECK_S", 0.01)
    monkeypatch.setattr("controlplane.fleet.DEPLOYMENT_RETRY_S", 0.01)


@pytest.fixture
async def two(tmp_path: Path, server: ModelServer) -> AsyncIterator[Rig]:
    """``risk`` falls back to ``light``, which another server serves."""
    publish(tmp_path / "other/light", 1)
    other = ModelServer(tmp_path / "other")
    await other.start()
    light = {
        "kind": "tfserving",
        "target": f"127.0.0.1:{other.port}",
        "models": {"light": str(tmp_path / "other/light")},
    }
    models = {"risk": entry("risk", fallback=("light",)), "light": entry("light", "tfs-light")}
    rig = Rig(tmp_path, server, Catalogue(models=models), {"tfs-light": light})
    await rig.begin()
    for deployment in rig.fleet.deployments.values():
        await deployment.start()
    yield rig
    await rig.end()
    await other.stop()


def request(model: str = "risk", operation: str = "Predict") -> BackendRequest:
    body = encode_predict(model, {"x": ROW})
    return BackendRequest(call_id="c", target=model, operation=operation, body=body, scope="acme:r1", timeout_s=10)


async def ask(rig: Rig, model: str = "risk", operation: str = "Predict") -> BackendReply:
    ladder = rig.fleet.ladder_of(model)
    assert ladder is not None
    async with ladder.send(request(model, operation)) as reply, aclosing(reply.chunks) as chunks:
        assert b"".join([chunk async for chunk in chunks])
        return reply


async def reason_of(rig: Rig, model: str = "risk", operation: str = "Predict") -> str:
    with pytest.raises(BackendError) as caught:
        await ask(rig, model, operation)
    return caught.value.reason


def deployment_of(rig: Rig, model: str = "risk") -> Deployment:
    found = rig.fleet.deployment_of(model)
    assert found is not None
    return found


async def test_a_call_is_answered_by_the_version_that_the_label_means(rig: Rig) -> None:
    await deployment_of(rig).start()
    reply = await ask(rig)
    assert (reply.served_by, reply.rung) == ("risk/1", "primary")


async def test_before_the_server_was_told_calls_are_refused_as_not_deployed(rig: Rig) -> None:
    assert await reason_of(rig) == "not_deployed"


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_comes_late_is_deployed_when_it_comes(rig: Rig) -> None:
    await rig.server.stop()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fleet.keep_deployed)
        await anyio.sleep(0.05)
        assert rig.fleet.version_meant("risk", None, None) == 0
        await rig.server.start()
        await until(lambda: rig.fleet.version_meant("risk", None, None) == 1)
        tasks.cancel_scope.cancel()
    assert (await ask(rig)).served_by == "risk/1"


@pytest.mark.usefixtures("hasty")
async def test_a_restarted_server_is_told_again_what_to_serve(rig: Rig) -> None:
    """By itself it would serve the newest version it finds, and only that."""
    await deployment_of(rig).start()
    publish(rig.server.folder / "risk", 2)
    await rig.server.stop()
    await rig.server.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fleet.keep_deployed)
        with anyio.fail_after(60):
            while [one.version for one in (await deployment_of(rig).status())["risk"]] != [1]:  # noqa: ASYNC110  the server has no event to give
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert (await ask(rig)).served_by == "risk/1"


@pytest.mark.usefixtures("hasty")
async def test_an_unforeseen_error_does_not_end_the_watch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def breaks(_: Deployment, replica: str) -> None:
        asked.append(1)
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(Deployment, "attend", breaks)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fleet.keep_deployed)
        await until(lambda: len(asked) > 2)
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("hasty")
async def test_nor_does_one_while_signatures_are_learnt(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def breaks(_: DeployedSignatures) -> None:
        asked.append(1)
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(DeployedSignatures, "learn", breaks)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fleet.keep_deployed)
        await until(lambda: len(asked) > 2)
        tasks.cancel_scope.cancel()


async def test_when_the_primary_is_down_the_lighter_model_answers_and_says_so(two: Rig) -> None:
    await two.server.stop()
    reply = await ask(two)
    assert (reply.served_by, reply.rung) == ("light/1", "lighter")


async def test_a_held_version_is_answered_by_the_lighter_model(two: Rig) -> None:
    await two.degrade()
    assert (await ask(two)).rung == "lighter"
    await two.ask("DEGRADED", "reviewed", "HEALTHY")
    assert (await ask(two)).rung == "primary"


async def test_what_a_held_version_said_before_is_remembered_by_no_ladder(two: Rig) -> None:
    ladder = two.fleet.ladder_of("risk")
    assert isinstance(ladder, FallbackLadder)
    two.fleet.breakers.hold("risk/2", "drift_verdict")
    assert [ladder.distrusts(version) for version in ("risk/2", "risk/1", "")] == [True, False, False]
    two.fleet.breakers.release("risk/2", "drift_verdict")
    assert not ladder.distrusts("risk/2")


async def test_the_lighter_model_has_no_ladder_of_its_own_to_fall_down(two: Rig) -> None:
    await two.server.stop()
    assert (await ask(two, "light")).rung == "primary"


async def test_ladders_follow_a_reload_of_policy(two: Rig) -> None:
    await two.server.stop()
    assert (await ask(two)).rung == "lighter"
    two.catalogue = Catalogue(models={**two.catalogue.models, "risk": entry("risk")})
    assert await reason_of(two) == "unavailable"
    two.catalogue = Catalogue(models={"light": two.catalogue.models["light"]})
    assert two.fleet.ladder_of("risk") is None
    assert list(two.fleet.names()) == ["light"]


async def test_a_model_whose_backend_is_not_configured_is_not_served(rig: Rig) -> None:
    rig.catalogue = Catalogue(models={"risk": entry("risk", "elsewhere")})
    assert rig.fleet.ladder_of("risk") is None
    assert rig.fleet.names() == []


async def test_the_deployment_of_a_model_is_that_of_the_backend_in_the_catalogue(two: Rig, tmp_path: Path) -> None:
    """Two servers list the model: moves and labels must reach the one that answers the calls."""
    await two.end()
    two.backends["tfs-light"]["models"]["risk"] = str(tmp_path / "other/risk")
    two.catalogue = Catalogue(models={"risk": entry("risk", "tfs-light")})
    await two.begin()
    assert deployment_of(two) is two.fleet.deployments["tfs-light"]


async def test_an_operation_of_another_protocol_is_the_callers_mistake(rig: Rig) -> None:
    await deployment_of(rig).start()
    assert await reason_of(rig, operation="chat") == "unsupported_operation"


async def test_the_version_meant_is_0_when_it_cannot_be_told(rig: Rig) -> None:
    await deployment_of(rig).start()
    assert rig.fleet.version_meant("risk", None, "stable") == 1
    assert rig.fleet.version_meant("risk", None, "canary") == 0
    assert rig.fleet.version_meant("nobody", None, None) == 0
    assert rig.fleet.version_meant("risk", 7, None) == 7


async def test_signatures_are_learnt_while_the_model_is_kept_deployed(rig: Rig) -> None:
    assert rig.fleet.known("nobody") is None
    assert rig.fleet.known("risk") is None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fleet.keep_deployed)
        await until(lambda: rig.fleet.known("risk") is not None)
        tasks.cancel_scope.cancel()
