"""Moves under load on two model servers, each a process of its own: no call fails, and none is answered by a version
that was no longer meant when the call began. Which version answered is told by the numbers, not by what anybody says.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from controlplane.clock import Clock
from controlplane.fleet import Fleet
from controlplane.policy import Catalogue, ModelEntry
from controlplane.settings import Settings
from controlplane.versions import tries_canary
from inference.backend import BackendRequest
from inference.errors import BackendError
from inference.savedmodel import export_mlp
from inference.tfserving.deployment import Deployment
from inference.tfserving.predict import decode_predict, encode_predict

X = np.array([[1, 2]], np.float32)
BODY = encode_predict("risk", {"x": X})
CALLERS = 8
BETWEEN_CALLS = 100  # of load before and after each move
PATIENCE_S = 120


def publish(base: Path, version: int) -> None:
    """A model that answers softmax(version * x), so that its numbers say which one it is."""
    layers = [(np.eye(2) * version, np.zeros(2))]
    export_mlp(base / str(version), layers, feature_names=["a", "b"], class_names=["no", "yes"])


def version_in(answer: bytes) -> int:
    no, yes = decode_predict(answer)["probabilities"][0].tolist()
    return round(float(np.log(yes / no)))


def start_server(base: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "inference.tfserving.server", "--base", str(base), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    word, _, target = process.stdout.readline().strip().partition(" ")
    assert word == "ready"
    return process, target


@dataclass
class Servers:
    base: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)

    def start(self, port: int = 0) -> str:
        process, target = start_server(self.base, port)
        self.processes.append(process)
        return target


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    publish(tmp_path / "models/risk", 1)
    servers = Servers(tmp_path / "models")
    servers.targets = [servers.start(), servers.start()]
    yield servers
    for process in servers.processes:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the servers have no event to give
            await anyio.sleep(0.01)


@dataclass
class Load:
    """Callers that ask without pause. Each knows which versions could be meant when its call began."""

    fleet: Fleet
    percent: int = 0
    canary: int = 0
    meant: set[int] = field(default_factory=lambda: {1})  # what a call that begins now may be answered by
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    calls: Iterator[int] = field(default_factory=itertools.count)
    over: int = 0
    is_over: bool = False

    def request(self) -> BackendRequest:
        number = next(self.calls)
        return BackendRequest(
            call_id=f"call-{number}",
            target="risk",
            operation="Predict",
            body=BODY,
            agent=f"agent:{number % 200}",
            tenant="acme",
            timeout_s=60.0,
        )

    def may_answer(self, request: BackendRequest) -> set[int]:
        tries = bool(self.canary) and tries_canary(request, self.percent)
        return {self.canary} if tries else set(self.meant)

    async def keep_asking(self) -> None:
        ladder = self.fleet.ladder_of("risk")
        assert ladder is not None
        while not self.is_over:
            request = self.request()
            may_answer = self.may_answer(request)
            try:
                async with ladder.send(request) as reply, aclosing(reply.chunks) as chunks:
                    version = version_in(b"".join([chunk async for chunk in chunks]))
                    said = reply.served_by
            except BackendError as error:
                self.failed.append(f"{error.reason}: {error.detail}")
                continue
            finally:
                self.over += 1
            self.answered[version] += 1
            if version not in may_answer or said != f"risk/{version}":
                self.wrong.append(f"{request.call_id} of {request.agent}: {version} ({said}), not {may_answer}")

    async def go_on(self) -> None:
        """Until so many calls that begin now are over."""
        enough = next(self.calls) + BETWEEN_CALLS + CALLERS
        await until(lambda: self.over > enough)

    async def move(self, act: Callable[[], Awaitable[Any]], to: int) -> None:
        """Both may answer while the move is under way, and only the new one from its acknowledgement on."""
        await self.go_on()
        self.meant = {*self.meant, to}
        await act()
        self.meant = {to}
        before = self.answered[to]
        await self.go_on()
        assert self.answered[to] > before, f"nobody was answered by {to}"

    async def try_canary(self, deployment: Deployment, version: int, percent: int) -> None:
        stable = set(self.meant)
        self.canary, self.meant = 0, {*stable, version}
        await deployment.set_canary("risk", version, percent)
        self.canary, self.percent, self.meant = version if percent else 0, percent, stable
        await self.go_on()


@pytest.fixture
async def fleet(servers: Servers, tmp_path: Path) -> AsyncIterator[Fleet]:
    risk = {"name": "risk", "backend": "tfs", "task": "classification", "owner": "test"}
    entry = ModelEntry.model_validate(risk | {"sensitivity": 1, "side_effect": "read", "cost_tier": "low"})
    backend = {"kind": "tfserving", "targets": servers.targets, "models": {"risk": str(servers.base / "risk")}}
    identity = {"issuer": "urn:i", "audience": "urn:a", "jwks_file": tmp_path / "jwks.json"}
    said = {"state": tmp_path, "identity": identity, "backends": {"tfs": backend | {"reconnect_s": 0.05}}}
    fleet = Fleet(Settings.model_validate(said), lambda: Catalogue(models={"risk": entry}), Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fleet.keep_deployed)
        await until(lambda: len(ready(fleet, 1)) == 2)
        yield fleet
        tasks.cancel_scope.cancel()
    await fleet.aclose()


def ready(fleet: Fleet, version: int) -> list[str]:
    return [name for name, each in fleet.deployments["tfs"].replicas.items() if each.serves("risk", version)]


async def test_moves_canaries_and_rollbacks_under_load_fail_no_call_and_mislead_none(
    fleet: Fleet, servers: Servers
) -> None:
    deployment, load = fleet.deployments["tfs"], Load(fleet)
    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(load.keep_asking)
        publish(servers.base / "risk", 2)
        await deployment.load("risk", 2)
        await load.move(lambda: deployment.move_label("risk", "stable", 2), 2)  # label move
        await deployment.unload("risk", 1)  # version move: 1 is gone
        publish(servers.base / "risk", 3)
        for percent in (10, 60):
            await load.try_canary(deployment, 3, percent)
        assert load.answered[3] > 0
        await load.try_canary(deployment, 3, 0)
        await load.move(lambda: deployment.move_label("risk", "stable", 3), 3)
        await load.move(lambda: deployment.roll_back("risk"), 2)
        await load.move(lambda: deployment.roll_back("risk"), 1)  # it was unloaded: loaded again
        load.is_over = True
    assert (load.failed, load.wrong) == ([], [])
    assert sum(load.answered.values()) > 200
    assert set(load.answered) == {1, 2, 3}


async def test_a_server_that_was_killed_meanwhile_is_told_before_it_is_asked(fleet: Fleet, servers: Servers) -> None:
    """It comes back with the newest version only, which nobody means."""
    deployment, load = fleet.deployments["tfs"], Load(fleet)
    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(load.keep_asking)
        await load.go_on()
        os.kill(servers.processes[1].pid, signal.SIGKILL)
        servers.processes[1].communicate(timeout=PATIENCE_S)
        publish(servers.base / "risk", 2)
        await deployment.load("risk", 2)
        await load.move(lambda: deployment.move_label("risk", "stable", 2), 2)
        publish(servers.base / "risk", 3)
        await asyncio.to_thread(servers.start, int(servers.targets[1].rpartition(":")[2]))
        await until(lambda: servers.targets[1] in ready(fleet, 2))
        await load.go_on()
        load.is_over = True
    assert (load.failed, load.wrong) == ([], [])
    assert ready(fleet, 3) == []
